"""What the whole scheduler shows: runs, nodes, their past, and what happens to them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.projection.v1 import projection_service_pb2 as projection_pb
from runyard.projection.v1.projection_service_pb2_grpc import ProjectionServiceStub
from runyard.run.v1 import scheduler_service_pb2 as pb
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard.run.v1.types_pb2 import Executor, InputFile, Run, RunState
from runyard_contracts.answer_size import ANSWER_BYTES_MAX
from runyard_contracts.ids import uuid7
from runyard_servicekit.paging import PageToken, encode_page_token, page_query
from runyard_servicekit.server import MESSAGE_BYTES_MAX

from .service_client import CLIENT, Client, attach, client, fresh, reason
from .yard import WAIT_SECONDS, a_spec, a_submit

pytestmark = pytest.mark.engines

LARGE_ANSWERS = ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)

__all__ = ["client"]


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


async def test_what_no_table_can_hold_is_refused_and_harms_nobody(client: Client) -> None:
    run = (await client.submit()).run
    tagged = a_submit()
    tagged.tags.append("a\0b")
    calls = [
        client.submit(tagged),
        client.submit(a_submit(spec=a_spec(step="a\0b"))),
        client.stop(run.run_id, "a\0b"),
        client.runs(filter='step="a\0b"'),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.node("a\0b")
    assert reason(error) == "NODE_NOT_FOUND"
    assert (await fresh(client, run.run_id)).state == RunState.RUN_STATE_QUEUED


async def test_parked_events_of_what_cannot_be_are_none(client: Client) -> None:
    stub: ProjectionServiceStub = ProjectionServiceStub(client.channel)
    calls: list[tuple[Any, Message, str]] = [
        (stub.ListDeadLetters, projection_pb.ListDeadLettersRequest(stream="a\0b"), "BAD_STREAM_NAME"),
        (
            stub.RequeueDeadLetters,
            projection_pb.RequeueDeadLettersRequest(request_id=uuid7(), stream="a\0b"),
            "BAD_STREAM_NAME",
        ),
        (stub.GetDeadLetter, projection_pb.GetDeadLetterRequest(position=-(2**63)), "DEAD_LETTER_NOT_FOUND"),
    ]
    for call, request, code in calls:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(request, metadata=CLIENT, timeout=WAIT_SECONDS)
        assert reason(error) == code


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


async def test_a_page_of_runs_that_name_many_files_is_no_larger_than_an_answer_may_be(client: Client) -> None:
    spec = a_spec()
    asked = spec.inputs.add(name="data", uris=["dataset://images/v1"])
    file = InputFile(uri="dataset://images/v1", path="000001.jpg", sha256="0" * 64, size_bytes=1)
    asked.files.extend([file] * 9_500)
    answers = [await client.submit(a_submit(spec=spec)) for _ in range(16)]
    assert spec.ByteSize() * len(answers) > ANSWER_BYTES_MAX
    read = ReadOptions(min_position=answers[-1].position)
    seen: list[int] = []
    token = ""
    async with grpc.aio.insecure_channel(client.address, options=[LARGE_ANSWERS]) as channel:
        stub: SchedulerServiceStub = SchedulerServiceStub(channel)
        while token or not seen:
            request = pb.ListRunsRequest(page_size=20, page_token=token, read=read)
            page = await stub.ListRuns(request, metadata=CLIENT, timeout=WAIT_SECONDS)
            assert page.ByteSize() <= ANSWER_BYTES_MAX
            seen += [run.number for run in page.runs]
            token = page.next_page_token
        assert seen == list(range(16, 0, -1))
        brief = await client.runs(page_size=20, read=read, brief=True)
    assert [(run.number, run.spec.step) for run in brief.runs] == [(number, "train") for number in seen]
    assert not any(run.spec.inputs or run.spec.command_lines for run in brief.runs)


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
    of_another_query = encode_page_token(PageToken(1, (1,)), page_query("other", read=None))
    of_another_key = encode_page_token(PageToken(1, ("x",)), page_query("", read=None))
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"filter": "colour=red"}, "UNKNOWN_FILTER_FIELD"),
        ({"page_token": "nonsense"}, "BROKEN_PAGE_TOKEN"),
        ({"page_token": of_another_query}, "BROKEN_PAGE_TOKEN"),
        ({"page_token": of_another_key}, "BROKEN_PAGE_TOKEN"),
        ({"read_mask": FieldMask(paths=["colour"])}, "BAD_READ_MASK"),
        ({"page_size": -1}, "INVALID_INPUT"),
        ({"read": ReadOptions(min_position=-1)}, "BAD_POSITION"),
    )
    for request, stable in wrong:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.runs(**request)
        assert (error.value.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, stable)


async def test_a_walk_keeps_to_the_moment_that_it_began_with(client: Client) -> None:
    submitted = [await client.submit() for _ in range(3)]
    then = ReadOptions(as_of=AsOf(position=submitted[1].position))
    await fresh(client, submitted[2].run.run_id)
    first = await client.runs(page_size=1, read=then)
    [second] = (await client.runs(page_size=1, read=then, page_token=first.next_page_token)).runs
    assert [first.runs[0].run_id, second.run_id] == [each.run.run_id for each in reversed(submitted[:2])]
    for other in (ReadOptions(), ReadOptions(as_of=AsOf(position=submitted[2].position))):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.runs(page_size=1, read=other, page_token=first.next_page_token)
        assert reason(error) == "BROKEN_PAGE_TOKEN"


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
    at_the_end.time.FromDatetime(datetime.now(UTC))
    assert (await client.get(run_id, ReadOptions(as_of=at_the_end))).state == RunState.RUN_STATE_FINISHED
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.get(run_id, ReadOptions(as_of=AsOf(position=submitted.position - 1)))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.get(run_id, ReadOptions(as_of=AsOf(position=10**9)))
    assert error.value.code() == grpc.StatusCode.OUT_OF_RANGE


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
