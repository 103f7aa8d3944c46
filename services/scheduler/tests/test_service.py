"""The whole scheduler as its process runs it, on a real database and over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.run.v1 import scheduler_service_pb2 as pb
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard.run.v1.types_pb2 import CauseCode, Executor, OnLost, Outcome, Run, RunSpec, RunState
from runyard_contracts.ids import uuid7
from runyard_servicekit.paging import PageToken, encode_page_token

from .conftest import RunScheduler
from .yard import CLIENT_TOKEN, WAIT_SECONDS, ScriptedAgent, a_spec, a_submit, held, started

CLIENT = (("authorization", f"Bearer {CLIENT_TOKEN}"),)


class Client:
    """A client of the scheduler with a token and a deadline on every call."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address)
        self._stub = SchedulerServiceStub(self.channel)

    async def submit(self, request: pb.SubmitRunRequest | None = None) -> pb.SubmitRunResponse:
        return await self._stub.SubmitRun(request or a_submit(), metadata=CLIENT, timeout=WAIT_SECONDS)

    async def get(self, name: str, read: ReadOptions | None = None) -> Run:
        request = pb.GetRunRequest(name=name, read=read)
        return (await self._stub.GetRun(request, metadata=CLIENT, timeout=WAIT_SECONDS)).run

    async def runs(self, **request: Any) -> pb.ListRunsResponse:
        return await self._stub.ListRuns(pb.ListRunsRequest(**request), metadata=CLIENT, timeout=WAIT_SECONDS)

    async def stop(self, name: str) -> pb.StopRunResponse:
        request = pb.StopRunRequest(request_id=uuid7(), name=name, reason="enough")
        return await self._stub.StopRun(request, metadata=CLIENT, timeout=WAIT_SECONDS)

    async def node(self, node_id: str, read: ReadOptions | None = None) -> pb.GetNodeResponse:
        request = pb.GetNodeRequest(node_id=node_id, read=read)
        return await self._stub.GetNode(request, metadata=CLIENT, timeout=WAIT_SECONDS)

    async def nodes(self, **request: Any) -> pb.ListNodesResponse:
        return await self._stub.ListNodes(
            pb.ListNodesRequest(**request), metadata=CLIENT, timeout=WAIT_SECONDS
        )

    def watch(self, **request: Any) -> grpc.aio.UnaryStreamCall[pb.WatchRunsRequest, pb.WatchRunsResponse]:
        return self._stub.WatchRuns(pb.WatchRunsRequest(**request), metadata=CLIENT, timeout=3 * WAIT_SECONDS)

    async def until(self, run_id: str, *types: str, after_position: int = 0) -> list[str]:
        """Watch a run until an event of each of these types was seen; gives all types seen."""
        seen: list[str] = []
        call = self.watch(after_position=after_position, name=run_id)
        async for item in call:
            if item.WhichOneof("item") == "event":
                seen.append(item.event.type.removeprefix("runyard.run."))
            if set(types) <= set(seen):
                break
        call.cancel()
        return seen


async def fresh(client: Client, run_id: str) -> Run:
    """Read a run at the newest position that a write of ours has made."""
    position = (await client.submit()).position
    return await client.get(run_id, ReadOptions(min_position=position))


def reason(error: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> str:
    status = rpc_status.from_call(error.value)
    assert status is not None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    raise AssertionError("no ErrorInfo")


@pytest.fixture
async def client(run_scheduler: RunScheduler) -> AsyncIterator[Client]:
    async with run_scheduler() as address:
        made = Client(address)
        yield made
        await made.channel.close()


async def attach(client: Client, node_id: str = "node-1") -> ScriptedAgent:
    agent = ScriptedAgent(client.address, node_id)
    await agent.hello()
    return agent


async def test_a_run_goes_from_submit_to_its_record(client: Client) -> None:
    agent = await attach(client)
    submitted = await client.submit(a_submit(spec=a_spec(gpu_count=2)))
    assert submitted.run.state == RunState.RUN_STATE_QUEUED
    grant = await agent.grant()
    await agent.run_to_the_end(grant)
    run = await fresh(client, submitted.run.run_id)
    assert (run.state, run.outcome) == (RunState.RUN_STATE_FINISHED, Outcome.OUTCOME_SUCCEEDED)
    assert run.attempts[0].outputs[0].path == "model.pt"
    assert run.attempts[0].telemetry.last_sequence == 7
    assert run.attempts[0].hardware.hostname == "host"
    assert run.submitted_by == "user:alice"
    assert run == await client.get("digits#1")
    node = (await client.node("node-1")).node
    assert len(node.inventory.gpus) == 2
    await agent.close()


async def test_the_trace_of_the_submit_travels_into_events_and_grant(client: Client) -> None:
    agent = await attach(client)
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (*CLIENT, ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    await SchedulerServiceStub(client.channel).SubmitRun(a_submit(), metadata=metadata, timeout=WAIT_SECONDS)
    assert (await agent.grant()).traceparent.split("-")[1] == trace
    await agent.close()


async def test_a_repeated_request_gets_the_first_answer(client: Client) -> None:
    request = a_submit(title="first")
    first = await client.submit(request)
    assert await client.submit(request) == first
    await client.stop(first.run.run_id)
    assert await client.submit(request) == first
    other = a_submit(title="second")
    other.request_id = request.request_id
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.submit(other)
    assert error.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_concurrent_submits_of_a_project_are_numbered_without_gaps(client: Client) -> None:
    answers = await asyncio.gather(*(client.submit() for _ in range(20)))
    assert sorted(answer.run.number for answer in answers) == list(range(1, 21))


async def test_a_run_is_found_by_its_names(client: Client) -> None:
    runs = [(await client.submit()).run for _ in range(2)]
    position = (await client.submit(a_submit("other"))).position
    read = ReadOptions(min_position=position)
    for name in (runs[1].run_id, runs[1].run_id[:35], "digits#2", "digits#latest"):
        assert (await client.get(name, read)).number == 2


async def test_a_name_that_means_no_single_run_is_refused(client: Client) -> None:
    await client.submit()
    read = ReadOptions(min_position=(await client.submit()).position)
    for name, code, stable in (
        ("0192ffff-0000-7000-8000-000000000000", grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"),
        ("digits#77", grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"),
        ("nothing#latest", grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"),
        ("0", grpc.StatusCode.INVALID_ARGUMENT, "AMBIGUOUS_NAME"),
        ("what?", grpc.StatusCode.INVALID_ARGUMENT, "BAD_RUN_NAME"),
        ("", grpc.StatusCode.INVALID_ARGUMENT, "BAD_RUN_NAME"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.get(name, read)
        assert (name, error.value.code(), reason(error)) == (name, code, stable)


async def test_a_wrong_submit_is_refused_and_leaves_nothing(client: Client) -> None:
    for request, stable in (
        (a_submit("Bad Name"), "BAD_PROJECT_NAME"),
        (a_submit(spec=RunSpec(step="train")), "INVALID_SPEC"),
        (a_submit(spec=a_spec(gpu_count=-1)), "INVALID_SPEC"),
        (a_submit(spec=a_spec(image="x" * 1_100_000)), "SPEC_TOO_LARGE"),
        (a_submit(request_id=""), "REQUEST_ID_REQUIRED"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.submit(request)
        assert (error.value.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, stable)
    assert (await client.submit()).run.number == 1


async def test_what_no_enrolled_node_can_run_is_refused_but_queues_before_any_has_enrolled(
    client: Client,
) -> None:
    waiting = await client.submit(a_submit(spec=a_spec(gpu_count=64)))
    run = await client.get(waiting.run.run_id, ReadOptions(min_position=waiting.position))
    assert run.waiting_reason == "No node has enrolled yet."
    agent = await attach(client)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.submit(a_submit(spec=a_spec(gpu_count=3)))
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason(error) == "IMPOSSIBLE_RESOURCES"
    assert "node-1, has 2 GPUs" in str(error.value.details())
    await agent.close()


async def test_pages_show_the_moment_of_the_first(client: Client) -> None:
    numbers = [(await client.submit()).run.number for _ in range(7)]
    position = (await client.submit(a_submit("other"))).position
    seen: list[int] = []
    token = ""
    while True:
        page = await client.runs(
            page_size=3,
            page_token=token,
            filter='project="digits"',
            read=ReadOptions(min_position=position),
        )
        assert page.position >= position
        seen += [run.number for run in page.runs]
        token = page.next_page_token
        newer = await client.submit()
        assert newer.run.number not in seen
        if not token:
            break
    assert seen == numbers[::-1]


async def test_runs_are_filtered_by_what_they_are_and_where(client: Client) -> None:
    agent = await attach(client)
    spec = a_spec(step="evaluate")
    placed = await client.submit(a_submit(spec=spec, title="placed"))
    await agent.grant()
    tagged = a_submit(spec=a_spec(gpu_count=2))
    tagged.tags.extend(["nightly", "big"])
    await client.submit(tagged)
    second = await agent.grant()
    await agent.run_to_the_end(second)
    waiting = await client.submit(a_submit("other", spec=a_spec(executor=Executor.EXECUTOR_DOCKER)))
    read = ReadOptions(min_position=waiting.position)

    async def found(text: str) -> list[str]:
        return [run.run_id for run in (await client.runs(filter=text, read=read)).runs]

    assert await found("step=evaluate") == [placed.run.run_id]
    assert await found("state=STARTING") == [placed.run.run_id]
    assert await found("state=QUEUED") == [waiting.run.run_id]
    assert await found("state=FINISHED") == [second.run_id]
    assert await found("node=node-1") == [second.run_id, placed.run.run_id]
    assert await found("tag=nightly AND tag=big") == [second.run_id]
    assert await found("tag=nightly AND step=evaluate") == []
    assert await found("") == [waiting.run.run_id, second.run_id, placed.run.run_id]
    await agent.close()


async def test_a_list_leaves_variables_out_and_a_mask_chooses_fields(client: Client) -> None:
    request = a_submit()
    request.spec.environment_variables.add(name="A", value="b")
    read = ReadOptions(min_position=(await client.submit(request)).position)
    (run,) = (await client.runs(read=read)).runs
    assert run.spec.step == "train"
    assert not run.spec.environment_variables
    (run,) = (await client.runs(read=read, read_mask=FieldMask(paths=["number", "project"]))).runs
    assert run == Run(number=1, project="digits")


async def test_a_wrong_list_request_is_refused(client: Client) -> None:
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"filter": "colour=red"}, "UNKNOWN_FILTER_FIELD"),
        ({"page_token": "nonsense"}, "BROKEN_PAGE_TOKEN"),
        ({"page_token": encode_page_token(PageToken(1, (1,)), ["other"])}, "BROKEN_PAGE_TOKEN"),
        ({"page_token": encode_page_token(PageToken(1, ("x",)), [""])}, "BROKEN_PAGE_TOKEN"),
        ({"read_mask": FieldMask(paths=["colour"])}, "BAD_READ_MASK"),
        ({"page_size": -1}, "INVALID_INPUT"),
        ({"read": ReadOptions(min_position=-1)}, "BAD_POSITION"),
    )
    for request, stable in wrong:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.runs(**request)
        assert (error.value.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, stable)


async def test_the_past_is_shown_as_it_was(client: Client) -> None:
    agent = await attach(client)
    submitted = await client.submit()
    await agent.run_to_the_end(await agent.grant())
    run_id = submitted.run.run_id
    await fresh(client, run_id)
    then = ReadOptions(as_of=AsOf(position=submitted.position))
    assert await client.get(run_id, then) == submitted.run
    listed = (await client.runs(read=then)).runs
    assert [run.state for run in listed] == [RunState.RUN_STATE_QUEUED]
    assert (await client.runs(filter="state=FINISHED", read=then)).runs == []
    at_the_end = AsOf()
    at_the_end.time.FromDatetime(datetime.now(UTC) + timedelta(minutes=1))
    assert (await client.get(run_id, ReadOptions(as_of=at_the_end))).state == RunState.RUN_STATE_FINISHED
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.get(run_id, ReadOptions(as_of=AsOf(position=submitted.position - 1)))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.get(run_id, ReadOptions(as_of=AsOf(position=10**9)))
    assert error.value.code() == grpc.StatusCode.OUT_OF_RANGE
    await agent.close()


async def test_a_node_shows_what_it_has_and_what_is_reserved(client: Client) -> None:
    agents = [await attach(client, node_id) for node_id in ("node-1", "node-2")]
    submitted = await client.submit(a_submit(spec=a_spec(gpu_count=2)))
    grant = await agents[0].grant()
    read = ReadOptions(min_position=(await client.submit()).position)
    first = await client.nodes(page_size=1, read=read)
    second = await client.nodes(page_size=1, page_token=first.next_page_token)
    names = [node.node_id for node in [*first.nodes, *second.nodes]]
    assert (names, second.next_page_token) == (["node-1", "node-2"], "")
    (reservation,) = first.nodes[0].reservations[:1]
    assert (reservation.run_id, list(reservation.gpu_uuids)) == (submitted.run.run_id, list(grant.gpu_uuids))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.node("nobody")
    assert reason(error) == "NODE_NOT_FOUND"
    for agent in agents:
        await agent.close()


async def test_a_watcher_sees_history_then_the_mark_then_what_happens(client: Client) -> None:
    run = (await client.submit()).run
    await client.submit(a_submit("other"))
    items: list[str] = []
    call = client.watch(project="digits")
    stopping = None
    async for item in call:
        kind = item.WhichOneof("item") or ""
        items.append(item.event.type if kind == "event" else kind)
        if kind == "caught_up_position":
            stopping = await client.stop(run.run_id)
        if item.event.type == "runyard.run.finished":
            assert stopping is not None
            assert item.event.position == stopping.position
            break
    call.cancel()
    assert items == ["runyard.run.queued", "caught_up_position", "runyard.run.finished"]


async def test_a_watch_from_now_on_tells_nothing_of_before(client: Client) -> None:
    await client.submit()
    call = client.watch(after_position=-1)
    first = await call.read()
    assert isinstance(first, pb.WatchRunsResponse)
    assert first.WhichOneof("item") == "caught_up_position"
    call.cancel()


async def test_a_watch_of_a_position_that_is_not_there_is_refused(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.watch(after_position=10**9).read()
    assert error.value.code() == grpc.StatusCode.OUT_OF_RANGE
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.watch(after_position=-2).read()
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_stopping_a_running_run_reaches_its_agent(client: Client) -> None:
    agent = await attach(client)
    run = (await client.submit()).run
    grant = await agent.grant()
    await agent.report(started(grant))
    answer = await client.stop("digits#latest")
    assert answer.run.state == RunState.RUN_STATE_STOPPING
    order = (await agent.receive("stop_order")).stop_order
    assert (order.run_id, order.cause_code) == (run.run_id, CauseCode.CAUSE_CODE_STOPPED_BY_USER)
    assert (await client.stop(run.run_id)).run.state == RunState.RUN_STATE_STOPPING
    await agent.run_to_the_end(grant, exit_code=1)
    assert (await fresh(client, run.run_id)).outcome == Outcome.OUTCOME_STOPPED
    assert (await client.stop(run.run_id)).run.state == RunState.RUN_STATE_FINISHED
    await agent.close()


async def test_what_has_just_ended_can_be_stopped_again_by_any_name(client: Client) -> None:
    for number in range(1, 6):
        run = (await client.submit()).run
        for name in (run.run_id, run.run_id, f"digits#{number}", "digits#latest"):
            assert (await client.stop(name)).run.state == RunState.RUN_STATE_FINISHED


async def test_silence_is_noticed_without_anybody_asking(client: Client) -> None:
    agent = await attach(client)
    run = (await client.submit(a_submit(spec=a_spec(on_lost=OnLost.ON_LOST_REQUEUE)))).run
    grant = await agent.grant()
    await agent.report(started(grant))
    seen = await client.until(run.run_id, "requeued")
    assert seen == [
        "queued",
        "lease_granted",
        "started",
        "unreachable",
        "lease_expired",
        "attempt_failed",
        "requeued",
    ]
    await agent.close()


async def test_a_restarted_scheduler_goes_on_from_its_read_model(run_scheduler: RunScheduler) -> None:
    async with run_scheduler() as address:
        client = Client(address)
        agent = await attach(client)
        running = (await client.submit(a_submit(spec=a_spec(gpu_count=1)))).run
        grant = await agent.grant()
        await agent.report(started(grant))
        waiting = (await client.submit(a_submit(spec=a_spec(gpu_count=2)))).run
        await agent.close()
        await client.channel.close()
    async with run_scheduler() as address:
        client = Client(address)
        agent = ScriptedAgent(address, "node-1")
        welcome = await agent.hello([held(grant)])
        assert list(welcome.fenced_attempts) == []
        assert (await agent.renew(held(grant))).lease_ids == [grant.lease_id]
        assert (await client.get(waiting.run_id)).waiting_reason.startswith("Needs 2 GPUs")
        await agent.run_to_the_end(grant)
        assert (await agent.grant()).run_id == waiting.run_id
        assert (await client.submit()).run.number == 3
        assert (await fresh(client, running.run_id)).outcome == Outcome.OUTCOME_SUCCEEDED
        await agent.close()
        await client.channel.close()


async def test_an_agents_token_opens_no_clients_doors_and_none_opens_nothing(client: Client) -> None:
    stub = SchedulerServiceStub(client.channel)
    agent = (("authorization", "Bearer agent-token-node-1"),)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.SubmitRun(a_submit(), metadata=agent, timeout=WAIT_SECONDS)
    assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.SubmitRun(a_submit(), timeout=WAIT_SECONDS)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
