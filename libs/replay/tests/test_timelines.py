from __future__ import annotations

import pytest
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    ReadTimelineRequest,
    Subject,
    SubjectKind,
    TimelineEntry,
    TimelineFlagKind,
)
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import OutputFile
from runyard_core.errors import Ambiguous, InvalidInput, NotFound, OutOfRange, RunyardError
from runyard_replay.reading.timelines import read_timeline

from .yard import LATER_RUN, MODEL, NODE, RUN, Yard, yard_with_a_finished_run

SKEW = TimelineFlagKind.TIMELINE_FLAG_KIND_SKEW
GAP = TimelineFlagKind.TIMELINE_FLAG_KIND_GAP
INCOMPLETE = TimelineFlagKind.TIMELINE_FLAG_KIND_INCOMPLETE


async def timeline(yard: Yard, name: str, **wanted: object) -> list[TimelineEntry]:
    request = ReadTimelineRequest(subject=Subject(name=name), **wanted)  # type: ignore[arg-type]
    return [entry async for entry in read_timeline(yard.log, request, yard.clock)]


def types(entries: list[TimelineEntry]) -> list[str]:
    return [entry.event.envelope.type.removeprefix("runyard.") for entry in entries]


def flags(entries: list[TimelineEntry]) -> list[TimelineFlagKind.ValueType]:
    return [flag.kind for entry in entries for flag in entry.flags]


async def test_a_runs_timeline_merges_both_lanes_in_the_order_in_which_they_came() -> None:
    entries = await timeline(await yard_with_a_finished_run(), RUN)
    assert types(entries) == [
        *("project.run_numbered", "run.queued", "run.lease_granted", "node.gpus_reserved", "run.started"),
        *("log.chunk_recorded", "gpu.samples_recorded", "host.samples_recorded", "log.chunk_recorded"),
        *("run.attempt_exited", "node.gpus_released", "artifact.written", "run.finished"),
    ]
    places = [
        (envelope.after_position or envelope.position, envelope.lane, envelope.position)
        for envelope in (entry.event.envelope for entry in entries)
    ]
    assert places == sorted(places)
    assert flags(entries) == []
    assert entries[5].sentence == "log lines 1 to 2: two"
    assert entries[5].event.data_json == ""
    assert '"run_id"' in entries[1].event.data_json


async def test_a_run_that_only_waits_has_a_timeline() -> None:
    yard = Yard()
    await yard.queue()
    assert types(await timeline(yard, RUN)) == ["project.run_numbered", "run.queued"]


@pytest.mark.parametrize(
    "first",
    [
        ev.RunStarted(run_id=RUN, attempt=1),
        ev.RunLeaseGranted(run_id=RUN, attempt=1),
        ev.RunFinished(run_id=RUN, outputs=[OutputFile(path="model.npz")]),
    ],
)
async def test_a_run_whose_beginning_is_missing_has_a_timeline(first: Message) -> None:
    yard = Yard()
    await yard.enroll()
    await yard.write("run", RUN, first)
    (entry,) = await timeline(yard, RUN, with_causes=True)
    assert entry.event.envelope.stream == f"run-{RUN}"


async def test_causes_lead_from_the_end_to_the_command() -> None:
    entries = await timeline(await yard_with_a_finished_run(), "digits#1", with_causes=True)
    chain = [link.type.removeprefix("runyard.") for link in entries[-1].causes]
    assert chain == ["run.attempt_exited", "run.started", "run.lease_granted", "run.queued"]
    assert entries[-1].causes[-1].actor == "user:alice"


async def test_what_a_node_did_for_other_runs_is_not_in_a_runs_timeline() -> None:
    yard = await yard_with_a_finished_run()
    started = await yard.start(await yard.lease(await yard.queue(LATER_RUN, 2), LATER_RUN), LATER_RUN)
    await yard.lines(1, "other", run_id=LATER_RUN)
    await yard.gpu_samples(LATER_RUN)
    await yard.finish(started, LATER_RUN, last_sequence=6)
    first, second = await timeline(yard, RUN), await timeline(yard, LATER_RUN)
    assert len(first) == 13
    assert "gpu.samples_recorded" in types(second)
    named = {entry.event.envelope.event_id for entry in first}
    assert named.isdisjoint(entry.event.envelope.event_id for entry in second)


async def test_a_nodes_timeline_has_its_runs_and_all_its_samples() -> None:
    yard = await yard_with_a_finished_run()
    await yard.gpu_samples("")
    found = types(await timeline(yard, NODE))
    assert found[:2] == ["node.enrolled", "node.attached"]
    assert found.count("gpu.samples_recorded") == 2
    assert {"run.lease_granted", "run.started", "run.attempt_exited"} <= set(found)
    assert "price.set" not in found


async def test_a_files_timeline_tells_how_it_came_to_be() -> None:
    entries = await timeline(await yard_with_a_finished_run(), MODEL[:10])
    assert types(entries)[-2:] == ["artifact.written", "run.finished"]
    assert "run.queued" in types(entries)


async def test_clocks_that_disagree_and_lines_that_are_missing_are_flagged() -> None:
    yard = Yard()
    await yard.enroll()
    started = await yard.start(await yard.lease(await yard.queue()))
    await yard.lines(1, "one")
    await yard.gpu_samples(RUN, late_seconds=9)
    for _ in range(6):
        await yard.lines(2, "two")
    await yard.gpu_samples(RUN)
    await yard.finish(started, last_sequence=20)
    entries = await timeline(yard, RUN)
    details = "\n".join(flag.detail for entry in entries for flag in entry.flags)
    assert flags(entries) == [SKEW, *[GAP] * 5, GAP, INCOMPLETE]
    assert "recorded 9 s after it happened" in details
    assert "line 2 follows line 2" in details
    assert "no gpu samples for 7 s before these" in details
    assert "the log has batches up to 9 of spool s1" in details


async def test_in_the_timeline_of_a_node_every_event_says_whose_it_is() -> None:
    yard = await yard_with_a_finished_run()
    entries = await timeline(yard, NODE)
    named = {entry.event.envelope.type.removeprefix("runyard."): entry.run for entry in entries}
    assert named["run.started"] == named["node.gpus_reserved"] == "digits#1"
    assert named["log.chunk_recorded"] == "digits#1"
    assert named["node.enrolled"] == ""
    # Of a run's own timeline everybody knows.
    assert {entry.run for entry in await timeline(yard, RUN)} == {""}
    assert {entry.run for entry in await timeline(yard, MODEL, domain_only=True)} == {"digits#1"}


async def test_a_span_cuts_both_lanes() -> None:
    yard = await yard_with_a_finished_run()
    whole = await timeline(yard, RUN)
    cut = await timeline(yard, RUN, begin=AsOf(position=8), end=AsOf(position=8))
    assert types(cut) == types(whole)[4:9]
    domain = await timeline(yard, RUN, domain_only=True)
    assert all(entry.event.envelope.lane == Lane.LANE_DOMAIN for entry in domain)
    assert len(domain) == 9


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("0198cccc", NotFound, "NOT_FOUND"),
        ("digits#9", NotFound, "RUN_NOT_FOUND"),
        ("nowhere", NotFound, "NODE_NOT_FOUND"),
        ("datum://zz", NotFound, "ALIAS_NOT_FOUND"),
        ("datum://z z", InvalidInput, "BAD_NAME"),
        ("datum://beef", NotFound, "FILE_NOT_FOUND"),
        ("model://resnet", NotFound, "MODEL_NOT_FOUND"),
        ("dataset://images/v1", NotFound, "DATASET_NOT_FOUND"),
        ("model://", InvalidInput, "BAD_NAME"),
        ("dataset://a b", InvalidInput, "BAD_NAME"),
        ("", InvalidInput, "BAD_NAME"),
        ("0198", Ambiguous, "AMBIGUOUS_NAME"),
    ],
)
async def test_a_name_of_nothing_or_of_several_is_refused(
    name: str, error: type[RunyardError], code: str
) -> None:
    yard = await yard_with_a_finished_run()
    await yard.queue(LATER_RUN, 2)
    with pytest.raises(error) as refused:
        await timeline(yard, name)
    assert refused.value.code == code


async def test_a_span_or_kind_without_a_timeline_is_refused() -> None:
    yard = await yard_with_a_finished_run()
    with pytest.raises(InvalidInput) as behind:
        await timeline(yard, RUN, begin=AsOf(position=9), end=AsOf(position=8))
    assert behind.value.code == "BAD_SPAN"
    with pytest.raises(OutOfRange):
        await timeline(yard, RUN, end=AsOf(position=99))
    request = ReadTimelineRequest(subject=Subject(kind=SubjectKind.SUBJECT_KIND_QUEUE))
    with pytest.raises(InvalidInput) as kind:
        _ = [entry async for entry in read_timeline(yard.log, request, yard.clock)]
    assert kind.value.code == "NO_TIMELINE"
