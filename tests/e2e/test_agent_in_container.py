"""The agent in a container, as deploy/agent says: runs go on while it is stopped and replaced."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from runyard.metric.v1.batches_pb2 import LogStream
from runyard.node.v1.types_pb2 import NodeState
from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.scheduler_service_pb2 import GetNodeRequest
from runyard.run.v1.types_pb2 import CauseCode, Executor, Outcome, Run, RunSpec, RunState
from tests.e2e.yard import Clients, Yard

IMAGE = os.environ.get("RUNYARD_AGENT_IMAGE", "")
NODE = "boxed"

pytestmark = [
    pytest.mark.engines,
    pytest.mark.docker,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("yard"),
    pytest.mark.skipif(not IMAGE, reason="needs an image of the agent: make agent-image-check"),
]

COUNTS = "n=0; until [ -e go ]; do n=$((n+1)); echo line $n; sleep 0.05; done; echo over"


def docker(*words: str, expect: int | None = 0) -> str:
    """Give what a command of Docker says; fails unless it ends as expected (None: any)."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120, check=False)
    assert expect is None or done.returncode == expect, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


class Box:
    """A machine whose agent is a container."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="runyard-box-"))
        self.name = self.directory.name
        # As the README beside the Dockerfile says; only the folder is another.
        self.shared = (
            *(
                "--network",
                "host",
                "--env",
                f"RUNYARD_AGENT_DIR={self.directory}",
                "--env",
                "RUNYARD_SLOT_COUNT=8",
            ),
            *("-v", f"{self.directory}:{self.directory}", "-v", "/var/run/docker.sock:/var/run/docker.sock"),
        )

    def enroll(self, token: str) -> str:
        return docker("run", "--rm", *self.shared, IMAGE, "enroll", "--token", token)

    def start(self) -> None:
        docker("run", "-d", "--name", self.name, "--pid", "host", *self.shared, IMAGE)

    def stop(self) -> None:
        docker("stop", "--time", "20", self.name)

    def remove(self) -> None:
        print(docker("logs", self.name, expect=None)[-20_000:])
        docker("rm", "--force", "--volumes", self.name, expect=None)

    def close(self) -> None:
        self.remove()
        docker("run", "--rm", *self.shared, IMAGE, "uninstall", "--force")
        self.directory.rmdir()

    def say_go(self, run: Run) -> None:
        (self.directory / "attempts" / f"{run.run_id}-1" / "repository" / "go").touch()


@pytest.fixture
async def box(yard: Yard, clients: Clients) -> AsyncIterator[Box]:
    """Give the only machine of the yard that has a slot free."""
    own_slots = len(os.sched_getaffinity(0))
    waits = RunSpec(step="waits", command_lines=["sleep 1000"], executor=Executor.EXECUTOR_PROCESS)
    blockers = [await clients.submit(waits) for _ in range(own_slots)]
    for blocker in blockers:
        await clients.reached(blocker.run_id, RunState.RUN_STATE_RUNNING)
    made = Box()
    try:
        invited = json.loads(yard.cli("nodes", "invite", NODE, "--output", "json").stdout)
        said = await asyncio.to_thread(made.enroll, invited["token"])
        assert "Enrolled." in said
        await asyncio.to_thread(made.start)
        await attached(clients)
        yield made
    finally:
        await asyncio.to_thread(made.close)
        yard.cli("nodes", "revoke", NODE, expect=None)
        for blocker in blockers:
            yard.cli("stop", blocker.run_id)


async def node_of(clients: Clients) -> tuple[NodeState.ValueType, list[str]]:
    node = (await clients.scheduler.GetNode(GetNodeRequest(node_id=NODE), timeout=20)).node
    return node.state, list(node.inventory.warnings)


async def attached(clients: Clients) -> None:
    await until(lambda: holds(clients, NodeState.NODE_STATE_ATTACHED))


async def holds(clients: Clients, state: NodeState.ValueType) -> bool:
    return (await node_of(clients))[0] == state


async def until(is_so: Callable[[], Awaitable[bool]], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await is_so():  # noqa: ASYNC110 - neither nodes nor containers can be watched here
            await asyncio.sleep(0.1)


def spec(*lines: str, image: str = "", time_limit_seconds: int = 0) -> RunSpec:
    return RunSpec(
        step="boxed",
        command_lines=lines,
        executor=Executor.EXECUTOR_DOCKER if image else Executor.EXECUTOR_PROCESS,
        image=image,
        stop_grace_seconds=1,
        time_limit_seconds=time_limit_seconds,
    )


async def replaced(box: Box, clients: Clients, while_away: Callable[[], Awaitable[bool]]) -> None:
    """Stop the agent's container, wait for something, and start another in its place."""
    await asyncio.to_thread(box.stop)
    await asyncio.to_thread(box.remove)
    await until(while_away)
    await asyncio.to_thread(box.start)


async def whole_record(clients: Clients, run: Run) -> Record:
    record = await clients.complete_record(run.run_id, 120)
    assert record.run.attempts[-1].node_id == NODE
    assert len(record.run.attempts) == 1
    return record


async def test_a_run_in_a_container_goes_on_while_the_agent_is_replaced(
    box: Box, clients: Clients, test_image: str
) -> None:
    run = await clients.submit(spec(COUNTS, "echo model > $VH_OUTPUTS_DIR/model", "exit 3", image=test_image))
    stdout = box.directory / "attempts" / f"{run.run_id}-1" / "state" / "stdout"
    await clients.reached(run.run_id, RunState.RUN_STATE_RUNNING)
    seen = 0

    async def prints() -> bool:
        nonlocal seen
        before, seen = seen, len(stdout.read_bytes().splitlines())
        return seen > before > 0

    await replaced(box, clients, prints)
    box.say_go(run)

    record = await whole_record(clients, run)

    cause = record.run.attempts[-1].cause
    assert (cause.code, cause.exit_code) == (CauseCode.CAUSE_CODE_USER_ERROR, 3)
    lines = await clients.lines(run.run_id)
    assert lines == [*(f"line {n}" for n in range(1, len(lines))), "over"]
    assert len(lines) > seen
    yard_files = [file.path for file in record.run.attempts[-1].outputs]
    assert yard_files == ["model"]


async def test_limits_hold_while_the_agent_is_away(box: Box, clients: Clients, test_image: str) -> None:
    run = await clients.submit(spec("echo begin; sleep 1000", image=test_image, time_limit_seconds=12))
    await clients.reached(run.run_id, RunState.RUN_STATE_RUNNING)

    async def has_ended() -> bool:
        said = docker("inspect", "--format", "{{.State.Status}}", f"runyard-{run.run_id}-1")
        return said.strip() == "exited"

    await replaced(box, clients, has_ended)

    record = await whole_record(clients, run)
    assert record.run.attempts[-1].cause.code == CauseCode.CAUSE_CODE_TIME_LIMIT, record.run.attempts[-1]
    assert await clients.lines(run.run_id) == ["begin"]


async def test_a_process_runs_inside_ends_with_the_agents_container_and_the_node_says_so(
    box: Box, clients: Clients
) -> None:
    whole = await clients.submit(spec("echo inside; cat /.dockerenv; echo kept > $VH_OUTPUTS_DIR/kept"))
    record = await whole_record(clients, whole)
    assert record.run.outcome == Outcome.OUTCOME_SUCCEEDED, record.run.attempts[-1]
    assert await clients.lines(whole.run_id) == ["inside"]
    _, warnings = await node_of(clients)
    assert [each for each in warnings if "end with it" in each]

    cut = await clients.submit(spec("echo begin; sleep 1000"))
    await clients.reached(cut.run_id, RunState.RUN_STATE_RUNNING)

    async def at_once() -> bool:
        return True

    await replaced(box, clients, at_once)
    record = await whole_record(clients, cut)
    assert record.run.attempts[-1].cause.code == CauseCode.CAUSE_CODE_AGENT_LOST, record.run.attempts[-1]
    assert await clients.lines(cut.run_id, LogStream.LOG_STREAM_STDOUT) == ["begin"]
