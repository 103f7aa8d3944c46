"""Trace, impact, record and history: the whole service on real engines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import DatasetVersionCreated
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.history.v1 import history_service_pb2 as history_pb
from runyard.history.v1.history_service_pb2_grpc import HistoryServiceStub
from runyard.lineage.v1.lineage_service_pb2 import ImpactRequest, TraceRequest, VertexKind
from runyard.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from runyard.record.v1.record_service_pb2 import GetRecordRequest
from runyard.record.v1.record_service_pb2_grpc import RecordServiceStub
from runyard.run.v1.events_pb2 import RunQueued
from runyard.run.v1.types_pb2 import Attempt, CodeRef, Run, RunSpec, RunState, TelemetryMark
from runyard_contracts.answer_size import ANSWER_BYTES_MAX
from runyard_contracts.ids import uuid7
from runyard_lineage import record as record_module
from runyard_testkit import Bus, Database

from .story import CLEAN, MODEL, PREPARE, RAW, TRAIN, TREE, story, versions
from .yard import append, knowing_peers, next_item, serving

pytestmark = pytest.mark.engines

OTHER = "0198dddd-0000-7000-8000-000000000004"


@pytest.fixture
async def channel(database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(database, bus, tmp_path) as channel:
        yield channel


async def test_a_model_leads_back_to_everything_behind_it(
    channel: grpc.aio.Channel, database: Database
) -> None:
    lineage = LineageServiceStub(channel)
    read = ReadOptions(min_position=await append(database, story()))
    traces = [
        await lineage.Trace(TraceRequest(name=name, read=read))
        for name in (MODEL, MODEL[:8], f"datum://{MODEL}", f"datum://{MODEL[:10]}")
    ]
    assert all(trace == traces[0] for trace in traces)
    trace = traces[0]
    assert (trace.root.label, trace.truncated) == ("model.pt", False)
    behind = {edge.target.id for edge in trace.edges}
    assert {TRAIN, CLEAN, PREPARE, RAW, TREE, "n1", "GPU-1", "user:alice"} <= behind
    assert trace.edges[0].target.label == "digits#2 train"
    assert trace.edges[0].role == "out/model.pt"
    assert trace.edges[0].event_id
    for name in ("digits#2", "digits#latest", TRAIN, TRAIN[:13]):
        assert (await lineage.Trace(TraceRequest(name=name))).root.id == TRAIN
    assert (await lineage.Trace(TraceRequest(name=TREE))).root.kind == VertexKind.VERTEX_KIND_CODE
    assert (await lineage.Trace(TraceRequest(name="n1"))).root.label == "n1 (1 x H100)"


async def test_bad_data_leads_forward_to_every_model_it_touched(
    channel: grpc.aio.Channel, database: Database
) -> None:
    lineage = LineageServiceStub(channel)
    read = ReadOptions(min_position=await append(database, story()))
    impact = await lineage.Impact(ImpactRequest(name=RAW, read=read))
    assert [edge.source.id for edge in impact.edges] == [PREPARE, CLEAN, TRAIN, MODEL]
    short = await lineage.Impact(ImpactRequest(name=RAW, depth_max=3))
    assert [edge.source.id for edge in short.edges] == [PREPARE, CLEAN, TRAIN]
    assert short.truncated
    whole = await lineage.Impact(ImpactRequest(name=RAW, depth_max=4))
    assert not whole.truncated


async def test_versions_of_datasets_and_models_are_walked_through(
    channel: grpc.aio.Channel, database: Database
) -> None:
    lineage = LineageServiceStub(channel)
    read = ReadOptions(min_position=await append(database, [*story(), *versions()]))
    for name in ("dataset://raw_set/v2", "dataset://raw_set/v2@digits"):
        impact = await lineage.Impact(ImpactRequest(name=name, read=read))
        assert impact.root.label == "dataset://raw_set/v2"
        assert [edge.source.label for edge in impact.edges] == ["digits#3 evaluate"]
    trace = await lineage.Trace(TraceRequest(name="digits#3"))
    behind = {edge.target.label for edge in trace.edges}
    assert {"model://net/1", "dataset://raw_set/v2", "dataset://raw_set/v1", "raw.csv", "model.pt"} <= behind
    # The same bytes, from a run of another project.
    copy = ArtifactWritten(sha256=MODEL, origin=Origin(path="copy.bin", run_id=OTHER, attempt=1))
    elsewhere = RunQueued(run_id=OTHER, project="other", number=1, spec=RunSpec(step="copy"))
    read = ReadOptions(min_position=await append(database, [elsewhere, copy]))
    for name, label in (("digits#3", "model.pt"), ("model://net/1", "model.pt"), (MODEL, "copy.bin")):
        trace = await lineage.Trace(TraceRequest(name=name, read=read))
        assert {edge.source.label for edge in trace.edges if edge.source.id == MODEL} == {label}
    impact = await lineage.Impact(ImpactRequest(name="digits#2", read=read))
    assert "model.pt" in {edge.source.label for edge in impact.edges}
    assert "copy.bin" not in {edge.source.label for edge in impact.edges}
    for name in ("dataset://raw%set/v2", "dataset://raw.set/v2", "dataset://raw_set/v2@other"):
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await lineage.Trace(TraceRequest(name=name))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    # "_" stands for itself only.
    twin = DatasetVersionCreated(project="digits", dataset="rawXset", version="v2")
    other = DatasetVersionCreated(project="other", dataset="raw_set", version="v2")
    read = ReadOptions(min_position=await append(database, [twin]))
    trace = await lineage.Trace(TraceRequest(name="dataset://raw_set/v2", read=read))
    assert trace.root.label == "dataset://raw_set/v2"
    read = ReadOptions(min_position=await append(database, [other]))
    with pytest.raises(grpc.aio.AioRpcError) as several:
        await lineage.Trace(TraceRequest(name="dataset://raw_set/v2", read=read))
    assert several.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_graph_is_shown_as_it_was(channel: grpc.aio.Channel, database: Database) -> None:
    lineage = LineageServiceStub(channel)
    events = story()
    before = await append(database, events[:-6])
    await append(database, events[-6:])
    then = ReadOptions(as_of=AsOf(position=before))
    assert (await lineage.Trace(TraceRequest(name="digits#latest", read=then))).root.id == PREPARE
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await lineage.Trace(TraceRequest(name=MODEL, read=then))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_name_of_several_things_is_refused_with_all_of_them(
    channel: grpc.aio.Channel, database: Database
) -> None:
    twins = [f"abcdef0123{digit}".ljust(64, "0") for digit in "12"]
    position = await append(
        database, [ArtifactWritten(sha256=twin, origin=Origin(path="x")) for twin in twins]
    )
    lineage = LineageServiceStub(channel)
    read = ReadOptions(min_position=position)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lineage.Trace(TraceRequest(name="abcdef01", read=read))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert all(twin in str(refused.value.details()) for twin in twins)
    with pytest.raises(grpc.aio.AioRpcError) as ahead:
        await lineage.Trace(TraceRequest(name=twins[0], read=ReadOptions(min_position=position + 1)))
    assert ahead.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_a_page_of_large_events_fits_into_a_message(
    channel: grpc.aio.Channel, database: Database
) -> None:
    """Twenty megabytes, and the content of each event once more as JSON."""
    history = HistoryServiceStub(channel)
    last = await append(
        database,
        [RunQueued(run_id=uuid7(), project="digits", title="x" * 1_000_000) for _ in range(20)],
    )
    for descending in (False, True):
        positions: list[int] = []
        pages = [await history.ListEvents(history_pb.ListEventsRequest(descending=descending, page_size=500))]
        while token := pages[-1].next_page_token:
            request = history_pb.ListEventsRequest(descending=descending, page_size=500, page_token=token)
            pages.append(await history.ListEvents(request))
        positions = [view.envelope.position for page in pages for view in page.events]
        assert positions == sorted(range(1, last + 1), reverse=descending)
        assert max(page.ByteSize() for page in pages) <= ANSWER_BYTES_MAX


async def test_events_are_listed_in_pages_both_ways_and_filtered(
    channel: grpc.aio.Channel, database: Database
) -> None:
    history = HistoryServiceStub(channel)
    last = await append(database, story())
    for descending in (False, True):
        positions: list[int] = []
        token = ""
        while True:
            request = history_pb.ListEventsRequest(page_size=5, page_token=token, descending=descending)
            page = await history.ListEvents(request)
            positions.extend(view.envelope.position for view in page.events)
            if not positions[5:]:
                # What comes meanwhile is not on this walk.
                await append(database, [ArtifactWritten(sha256="e" * 64, origin=Origin(path="late"))])
            token = page.next_page_token
            if not token:
                break
        head = last if not descending else last + 1
        assert positions == sorted(range(1, head + 1), reverse=descending)
    wanted = history_pb.EventFilter(types=["runyard.run."], stream=f"run-{TRAIN}", actor="user:alice")
    page = await history.ListEvents(history_pb.ListEventsRequest(filter=wanted))
    assert [view.envelope.type for view in page.events] == [
        "runyard.run.queued",
        "runyard.run.lease_granted",
        "runyard.run.started",
        "runyard.run.finished",
    ]
    queued = json.loads(page.events[0].data_json)
    assert (queued["run_id"], queued["spec"]["code"]["tree_sha256"]) == (TRAIN, TREE)
    heads = await history.GetLogHead(history_pb.GetLogHeadRequest())
    assert (heads.domain_position, heads.telemetry_position) == (last + 2, 0)
    assert heads.log_id


async def test_a_watcher_of_the_log_catches_up_and_then_follows(
    channel: grpc.aio.Channel, database: Database
) -> None:
    history = HistoryServiceStub(channel)
    events = story()
    last = await append(database, events)
    call = history.WatchEvents(history_pb.WatchEventsRequest(after_position=last - 2))
    seen = [await next_item(call) for _ in range(3)]
    assert [item.event.envelope.position for item in seen[:2]] == [last - 1, last]
    assert seen[2].caught_up_position == last
    await append(database, [ArtifactWritten(sha256="e" * 64, origin=Origin(path="late"))])
    live = await next_item(call)
    assert json.loads(live.event.data_json)["origin"]["path"] == "late"
    call.cancel()
    from_now_on = history.WatchEvents(history_pb.WatchEventsRequest(after_position=-1))
    first = await next_item(from_now_on)
    assert first.caught_up_position == last + 1
    from_now_on.cancel()
    ahead = history.WatchEvents(history_pb.WatchEventsRequest(lane=Lane.LANE_TELEMETRY, after_position=1))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ahead.read()
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


MARK = TelemetryMark(node_id="n1", spool_id="s1", last_sequence=9, log_line_count=2)
FINISHED = Run(
    run_id=TRAIN,
    state=RunState.RUN_STATE_FINISHED,
    spec=RunSpec(step="train", code=CodeRef(tree_sha256=TREE)),
    attempts=[Attempt(number=1, telemetry=MARK)],
)


async def test_a_record_gathers_its_boxes(
    database: Database, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        knowing_peers(FINISHED, line_count=2) as peers,
        serving(database, bus, tmp_path, peers) as channel,
    ):
        answer = await RecordServiceStub(channel).GetRecord(GetRecordRequest(name=TRAIN))
        record = answer.record
        assert (record.complete, list(record.missing), answer.position) == (True, [], 3)
        assert record.code.tree_sha256 == TREE
        assert [output.name for output in record.outputs] == ["a", "b"]
        assert (record.cost.micro_usd, record.logs.line_count) == (42, 2)
        assert [line.text for line in record.logs.last_lines] == ["bye"]
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await RecordServiceStub(channel).GetRecord(GetRecordRequest(name="digits#9"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        monkeypatch.setattr(record_module, "OUTPUTS_MAX", 1)
        cut = (await RecordServiceStub(channel).GetRecord(GetRecordRequest(name=TRAIN))).record
        assert [output.name for output in cut.outputs] == ["a"]
        assert list(cut.missing) == ["outputs: there are more than 1; ListArtifacts has all"]
        assert cut.complete


async def test_a_box_whose_service_does_not_answer_is_named_and_not_invented(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    async with (
        knowing_peers(FINISHED, line_count=1, with_cost=False) as peers,
        serving(database, bus, tmp_path, peers) as channel,
    ):
        record = (await RecordServiceStub(channel).GetRecord(GetRecordRequest(name=TRAIN))).record
    assert not record.HasField("cost")
    assert not record.complete
    assert record.missing[0].startswith("experiment cost: the cost service says UNIMPLEMENTED")
    assert record.missing[1] == "telemetry: the log has 1 log lines, the agent counted 2"


async def test_there_are_two_lanes(channel: grpc.aio.Channel) -> None:
    history = HistoryServiceStub(channel)
    lane = Lane.ValueType(7)
    for call in (
        history.ListEvents(history_pb.ListEventsRequest(lane=lane)),
        history.WatchEvents(history_pb.WatchEventsRequest(lane=lane)).read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_without_the_scheduler_there_is_no_record(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await RecordServiceStub(channel).GetRecord(GetRecordRequest(name=TRAIN))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
