"""Runs and nodes that are as large as their events may be, in answers that are no larger than a message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from runyard.agent.v1 import agent_service_pb2 as agent_pb
from runyard.event.v1.read_pb2 import ReadOptions
from runyard.run.v1 import scheduler_service_pb2 as pb
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard.run.v1.types_pb2 import CauseCode, Executor, InputFile, OnLost, Package, Run
from runyard_contracts.ids import uuid7
from runyard_servicekit.server import MESSAGE_BYTES_MAX

from .service_client import CLIENT, Client, attach, client
from .yard import (
    WAIT_SECONDS,
    ScriptedAgent,
    a_report,
    a_spec,
    a_submit,
    an_inventory,
    started,
    write_tokens,
)

pytestmark = pytest.mark.engines

__all__ = ["client"]

ATTEMPT_COUNT = 9
FILE = InputFile(uri="dataset://images/v1", path="000001.jpg", sha256="0" * 64, size_bytes=1)
FILES = [FILE] * 9_500
PACKAGES = [Package(name="a-package-of-the-system", version="1.2.3")] * 25_000


NODE_IDS = [f"node-{number}" for number in range(10, 28)]


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens.json", ["node-1", *NODE_IDS])


@pytest.fixture
async def reader(client: Client) -> AsyncIterator[SchedulerServiceStub]:
    """A client that takes what a service may send."""
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    async with grpc.aio.insecure_channel(client.address, options=options) as channel:
        yield SchedulerServiceStub(channel)


async def tell(agent: ScriptedAgent, report: agent_pb.AttemptReport) -> None:
    assert (await agent.report(report)).rejected_reason == ""


async def find_much(agent: ScriptedAgent) -> agent_pb.LeaseGrant:
    """Play an attempt that has begun."""
    grant = await agent.grant()
    captured = a_report(grant, "environment")
    captured.environment_captured.packages.extend(PACKAGES)
    await tell(agent, captured)
    beginning = started(grant)
    beginning.started.inputs.add(name="data", uris=[FILE.uri], files=FILES)
    await tell(agent, beginning)
    return grant


async def shown(client: Client) -> ReadOptions:
    """Wait until everything up to now is shown, which of large runs takes a while."""
    waiting = a_submit("other", spec=a_spec(executor=Executor.EXECUTOR_DOCKER))
    read = ReadOptions(min_position=(await client.submit(waiting)).position)
    await client.nodes(page_size=1, read=read)
    return read


async def test_a_run_of_many_large_attempts_can_be_shown_listed_and_stopped(
    client: Client, reader: SchedulerServiceStub
) -> None:
    agent = await attach(client)
    spec = a_spec(on_lost=OnLost.ON_LOST_REQUEUE)
    spec.inputs.add(name="data", uris=[FILE.uri], files=FILES)
    run_id = (await client.submit(a_submit(spec=spec))).run.run_id
    for _ in range(ATTEMPT_COUNT - 1):
        lost = a_report(await find_much(agent), "failed")
        lost.failed.code = CauseCode.CAUSE_CODE_AGENT_LOST
        await tell(agent, lost)
        await shown(client)
    await find_much(agent)
    read = await shown(client)

    got = await reader.GetRun(pb.GetRunRequest(name=run_id, read=read), metadata=CLIENT, timeout=WAIT_SECONDS)
    assert got.ByteSize() < MESSAGE_BYTES_MAX
    stop = pb.StopRunRequest(request_id=uuid7(), name=run_id)
    stopped = await reader.StopRun(stop, metadata=CLIENT, timeout=WAIT_SECONDS)
    listed = await all_runs(reader, ReadOptions(min_position=stopped.position))
    assert [run.project for run in listed] == ["other"] * ATTEMPT_COUNT + ["digits"]
    for run in (got.run, stopped.run, listed[-1]):
        attempts = run.attempts
        assert [attempt.number for attempt in attempts] == [*range(1, ATTEMPT_COUNT + 1)]
        assert list(run.spec.inputs[0].files) == FILES
        assert (list(attempts[-1].inputs[0].files), list(attempts[-1].environment.packages)) == (
            FILES,
            PACKAGES,
        )
        left_out = attempts[0].inputs[0]
        assert (len(left_out.files), left_out.file_list.file_count) == (0, len(FILES))


async def test_a_page_of_nodes_with_much_to_say_is_no_larger_than_an_answer_may_be(
    client: Client, reader: SchedulerServiceStub
) -> None:
    inventory = an_inventory()
    inventory.warnings.append("!" * 950_000)
    for node_id in NODE_IDS:
        agent = ScriptedAgent(client.address, node_id, inventory)
        client.agents.append(agent)
        await agent.hello()
    read = await shown(client)
    seen: list[str] = []
    request = pb.ListNodesRequest(page_size=len(NODE_IDS), read=read)
    while request.page_token or not seen:
        page = await reader.ListNodes(request, metadata=CLIENT, timeout=WAIT_SECONDS)
        seen += [node.node_id for node in page.nodes]
        request.page_token = page.next_page_token
    assert seen == NODE_IDS


async def all_runs(reader: SchedulerServiceStub, read: ReadOptions) -> list[Run]:
    """Walk the list; every page is an answer."""
    runs: list[Run] = []
    request = pb.ListRunsRequest(page_size=20, read=read)
    while True:
        page = await reader.ListRuns(request, metadata=CLIENT, timeout=WAIT_SECONDS)
        runs += page.runs
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return runs
