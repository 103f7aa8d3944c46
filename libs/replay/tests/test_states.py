from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    DiffStatesRequest,
    DiffStatesResponse,
    EventFilter,
    FieldChange,
    GetStateAsOfRequest,
    GetStateAsOfResponse,
    ListEffectsRequest,
    PriceAgainRequest,
    Subject,
    SubjectKind,
)
from runyard.node.v1.events_pb2 import NodeEnrolled, NodeForeignProcessSeen
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import RunSpec, RunState
from runyard_contracts import answer_size
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_core.clock import ManualClock
from runyard_core.errors import InvalidInput, NotFound, OutOfRange, Rejected, RunyardError
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_replay.folding.leases import LeaseFold
from runyard_replay.pricing.leases import Term
from runyard_replay.pricing.price_book import PriceLine
from runyard_replay.reading import comparing
from runyard_replay.reading.causes import effects_of
from runyard_replay.reading.comparing import diff_states
from runyard_replay.reading.event_ids import is_position
from runyard_replay.reading.repricing import price_again
from runyard_replay.reading.selecting import bounds_of
from runyard_replay.reading.states import state_as_of

from .yard import ALICE, GPU, LATER_RUN, MODEL, NODE, RUN, START, Yard, yard_with_a_finished_run

QUEUE, GPUS = SubjectKind.SUBJECT_KIND_QUEUE, SubjectKind.SUBJECT_KIND_GPUS
COST, ANY = SubjectKind.SUBJECT_KIND_COST, SubjectKind.SUBJECT_KIND_UNSPECIFIED


async def shown(
    yard: Yard,
    position: int,
    name: str = "",
    kind: SubjectKind.ValueType = SubjectKind.SUBJECT_KIND_UNSPECIFIED,
) -> GetStateAsOfResponse:
    as_of = AsOf(position=position) if position else AsOf()
    request = GetStateAsOfRequest(as_of=as_of, subject=Subject(kind=kind, name=name))
    return await state_as_of(yard.log, request, yard.clock)


async def test_a_run_is_shown_as_it_was_after_each_of_its_events() -> None:
    yard = await yard_with_a_finished_run()
    states = [(await shown(yard, position, RUN)).run.state for position in (5, 6, 8, 9, 12)]
    assert states == [
        RunState.RUN_STATE_QUEUED,
        RunState.RUN_STATE_STARTING,
        RunState.RUN_STATE_RUNNING,
        RunState.RUN_STATE_FINISHING,
        RunState.RUN_STATE_FINISHED,
    ]
    run = SubjectKind.SUBJECT_KIND_RUN
    assert await shown(yard, 9, RUN, run) == await shown(yard, 9, RUN)
    for kind, code in ((ANY, "NOT_FOUND"), (run, "RUN_NOT_FOUND")):
        with pytest.raises(NotFound) as early:
            await shown(yard, 3, RUN, kind)
        assert early.value.code == code


async def test_the_queue_stands_in_the_order_of_placement() -> None:
    yard = Yard()
    await yard.enroll()
    first = await yard.queue(RUN, 1)
    await yard.queue(LATER_RUN, 2, priority=5)
    queue = (await shown(yard, 0, kind=QUEUE)).queue
    assert [(run.number, run.waited_milliseconds) for run in queue.waiting] == [(2, 0), (1, 2000)]
    await yard.lease(first)
    queue = (await shown(yard, 0, "digits", QUEUE)).queue
    assert [run.number for run in queue.waiting] == [2]
    assert {count.state: count.run_count for count in queue.counts} == {
        RunState.RUN_STATE_QUEUED: 1,
        RunState.RUN_STATE_STARTING: 1,
    }
    with pytest.raises(NotFound, match="no project 'other'"):
        await shown(yard, 0, "other", QUEUE)


async def test_gpus_are_shown_with_their_holders_and_foreign_processes() -> None:
    yard = Yard()
    await yard.enroll()
    await yard.foreign()
    await yard.lease(await yard.queue())
    gpus = (await shown(yard, 0, kind=GPUS)).gpus
    assert [held.run_id for held in gpus.nodes[0].reservations] == [RUN]
    assert [process.process_name for process in gpus.foreign_processes] == ["miner"]
    await yard.foreign(gone=True)
    assert not (await shown(yard, 0, kind=GPUS)).gpus.foreign_processes
    assert not (await shown(yard, 4, kind=GPUS)).gpus.nodes[0].reservations


async def test_nodes_come_in_parts_by_name_with_their_own_processes() -> None:
    yard = Yard()
    for name in ("n3", "n1", "n2"):
        await yard.write("node", name, NodeEnrolled(node_id=name))
        await yard.write("node", name, NodeForeignProcessSeen(node_id=name, gpu_uuid=GPU, pid=1))
    request = GetStateAsOfRequest(subject=Subject(kind=GPUS), nodes_max=2)
    gpus = (await state_as_of(yard.log, request, yard.clock)).gpus
    assert [node.node_id for node in gpus.nodes] == ["n1", "n2"]
    assert [process.node_id for process in gpus.foreign_processes] == ["n1", "n2"]
    assert gpus.more_node_count == 1
    request.nodes_skipped = 2
    gpus = (await state_as_of(yard.log, request, yard.clock)).gpus
    assert ([node.node_id for node in gpus.nodes], gpus.more_node_count) == (["n3"], 0)
    request.nodes_max = 5_001
    with pytest.raises(InvalidInput):
        await state_as_of(yard.log, request, yard.clock)


async def test_a_projects_cost_counts_what_ran_at_that_moment() -> None:
    yard = await yard_with_a_finished_run()
    # $3,600 an hour is $1 a second; the GPU was held from position 7 on.
    running = (await shown(yard, 8, "digits", COST)).cost
    assert (running.micro_usd, running.run_count, running.runs[0].running) == (1_000_000, 1, True)
    whole = (await shown(yard, 0, "digits", COST)).cost
    assert (whole.micro_usd, whole.runs[0].running) == (7_000_000, False)
    assert (await shown(yard, 6, "digits", COST)).cost.run_count == 0


async def test_prices_are_shown_to_the_millisecond_that_they_are_counted_from() -> None:
    yard = Yard()
    price = Price(price_id="p", effective_from=Timestamp(seconds=9, nanos=438_861_000))
    await yard.write("price", "p", PriceSet(price=price))
    prices = (await shown(yard, 0, kind=SubjectKind.SUBJECT_KIND_PRICES)).prices.prices
    assert [each.effective_from for each in prices] == [Timestamp(seconds=9, nanos=438_000_000)]


async def test_a_file_and_a_node_are_shown_by_name() -> None:
    yard = await yard_with_a_finished_run()
    assert (await shown(yard, 0, f"datum://{MODEL}")).file.origins[0].origin.run_id == RUN
    assert (await shown(yard, 7, NODE)).node.reservations[0].run_id == RUN
    everything = await shown(yard, 0)
    assert (everything.HasField("queue"), everything.HasField("gpus")) == (True, True)


@pytest.mark.parametrize(
    ("as_of", "error", "code"),
    [
        (AsOf(position=99), OutOfRange, "POSITION_AHEAD"),
        (AsOf(position=-1), InvalidInput, "BAD_POSITION"),
        (AsOf(position=0), OutOfRange, "BEFORE_FIRST_EVENT"),
        (AsOf(time=Timestamp(nanos=-1)), InvalidInput, "BAD_TIME"),
        (AsOf(time=Timestamp(seconds=10**15)), InvalidInput, "BAD_TIME"),
    ],
)
async def test_a_moment_that_the_log_does_not_have_is_refused(
    as_of: AsOf, error: type[RunyardError], code: str
) -> None:
    yard = await yard_with_a_finished_run()
    with pytest.raises(error) as refused:
        await state_as_of(yard.log, GetStateAsOfRequest(as_of=as_of), yard.clock)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("7", True), ("0000007", True), ("10000001", True), ("20000000123", True)]
    + [(text, False) for text in ("01209440", "01a20944", "1" * 19, "12345678-1234", "-1", "")],
)
def test_an_event_of_a_long_log_may_be_named_by_its_position(text: str, is_one: bool) -> None:
    assert is_position(text) is is_one


async def test_the_first_moment_that_a_refusal_names_can_be_asked_for() -> None:
    yard = Yard(clock=ManualClock(START + timedelta(microseconds=123_456)))
    await yard.enroll()
    request = GetStateAsOfRequest(as_of=AsOf(position=0), subject=Subject(name=NODE))
    with pytest.raises(OutOfRange) as refused:
        await state_as_of(yard.log, request, yard.clock)
    named = refused.value.metadata["first_recorded_at"]
    assert named in refused.value.message
    request.as_of.time.FromDatetime(datetime.fromisoformat(named))
    assert (await state_as_of(yard.log, request, yard.clock)).position == 1


async def test_a_time_means_what_was_recorded_by_then() -> None:
    yard = await yard_with_a_finished_run()
    request = GetStateAsOfRequest(subject=Subject(name=RUN))
    request.as_of.time.FromDatetime(START + timedelta(seconds=6, milliseconds=500))
    assert (await state_as_of(yard.log, request, yard.clock)).position == 6
    for seconds, code in ((0, "BEFORE_FIRST_EVENT"), (9_999, "TIME_AHEAD")):
        request.as_of.time.FromDatetime(START + timedelta(seconds=seconds))
        with pytest.raises(OutOfRange) as refused:
            await state_as_of(yard.log, request, yard.clock)
        assert refused.value.code == code


async def test_events_are_not_looked_for_at_a_time_that_no_calendar_has() -> None:
    yard = await yard_with_a_finished_run()
    for wanted in (
        EventFilter(recorded_from=Timestamp(nanos=-1)),
        EventFilter(recorded_to=Timestamp(seconds=10**15)),
    ):
        with pytest.raises(InvalidInput) as refused:
            await bounds_of(yard.log, Lane.LANE_DOMAIN, wanted, 12)
        assert refused.value.code == "BAD_TIME"


async def test_a_number_of_a_project_is_found_beside_events_of_another_version() -> None:
    yard = await yard_with_a_finished_run()
    stream = stream_name("project", "digits")
    later = wrap(
        ev.ProjectRunNumbered(project="digits"), stream, Context(ALICE, uuid7(), "/scheduler"), START
    )
    later.type = "runyard.project.renamed"
    version = yard.versions[stream]
    await yard.log.append(AppendCommand(CommandId(uuid7()), [StreamAppend(stream, version, [later])]))
    assert [(await shown(yard, 0, name)).run.run_id for name in ("digits#1", "digits#latest")] == [RUN, RUN]


async def test_two_moments_differ_field_by_field_and_by_events() -> None:
    yard = await yard_with_a_finished_run()
    begin, end = AsOf(position=6), AsOf(position=12)
    request = DiffStatesRequest(begin=begin, end=end, subject=Subject(name=RUN))
    answer = await diff_states(yard.log, request, yard.clock)
    changes = {change.path: (change.before_json, change.after_json) for change in answer.changes}
    assert changes["state"] == ('"RUN_STATE_STARTING"', '"RUN_STATE_FINISHED"')
    assert "position" not in changes
    assert {count.type for count in answer.events} == {
        "runyard.run.started",
        "runyard.run.attempt_exited",
        "runyard.run.finished",
    }
    back = DiffStatesRequest(begin=end, end=begin, subject=Subject(name=RUN))
    with pytest.raises(InvalidInput) as refused:
        await diff_states(yard.log, back, yard.clock)
    assert refused.value.code == "BAD_SPAN"


async def test_before_a_thing_was_there_every_field_is_new() -> None:
    yard = await yard_with_a_finished_run()
    request = DiffStatesRequest(begin=AsOf(position=1), subject=Subject(name=RUN))
    answer = await diff_states(yard.log, request, yard.clock)
    assert not any(change.before_json for change in answer.changes)
    everything = await diff_states(yard.log, DiffStatesRequest(begin=AsOf(position=1)), yard.clock)
    assert sum(count.event_count for count in everything.events) == 11


async def test_what_differs_comes_in_pages_that_hold_all_of_it_once() -> None:
    yard = Yard()
    for number in range(1, 6):
        queued = ev.RunQueued(run_id=f"r{number}", project="red", number=number, spec=RunSpec(step="train"))
        await yard.write("run", f"r{number}", queued, ALICE)
    await yard.write("run", "r1", ev.RunLeaseGranted(run_id="r1", attempt=1), ALICE)
    for kind in (SubjectKind.SUBJECT_KIND_QUEUE, SubjectKind.SUBJECT_KIND_YARD):
        subject = Subject(kind=kind)
        span = DiffStatesRequest(begin=AsOf(position=2), end=AsOf(position=6), subject=subject)
        whole = await diff_states(yard.log, span, yard.clock)
        changed = {change.path.removeprefix("queue.").partition("]")[0] for change in whole.changes}
        counts = {"counts[RUN_STATE_QUEUED", "counts[RUN_STATE_STARTING"}
        assert changed == {"waiting[r1", "waiting[r3", "waiting[r4", "waiting[r5", *counts}
        assert not whole.has_more_changes
        pages: list[DiffStatesResponse] = []
        skipped = 0
        while not pages or pages[-1].has_more_changes:
            span.changes_max, span.changes_skipped = 7, skipped
            pages.append(await diff_states(yard.log, span, yard.clock))
            skipped += len(pages[-1].changes)
        assert [change for page in pages for change in page.changes] == list(whole.changes)
        assert all(page.events == whole.events for page in pages)


async def test_a_page_of_large_differences_fits_into_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    yard = await yard_with_a_finished_run()
    span = DiffStatesRequest(begin=AsOf(position=1))
    whole = await diff_states(yard.log, span, yard.clock)
    monkeypatch.setattr(answer_size, "ANSWER_BYTES_MAX", 300)
    changes: list[FieldChange] = []
    page = DiffStatesResponse(has_more_changes=True)
    while page.has_more_changes:
        span.changes_skipped = len(changes)
        page = await diff_states(yard.log, span, yard.clock)
        assert len(page.changes) == 1 or sum(change.ByteSize() for change in page.changes) <= 300
        changes += page.changes
    assert changes == list(whole.changes)


async def test_a_queue_too_long_to_be_compared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "COMPARED_RUNS_MAX", 2)
    yard = Yard()
    for number in range(1, 4):
        queued = ev.RunQueued(run_id=f"r{number}", project="red", number=number, spec=RunSpec(step="train"))
        await yard.write("run", f"r{number}", queued, ALICE)
    request = DiffStatesRequest(begin=AsOf(position=1), end=AsOf(position=2), subject=Subject(kind=QUEUE))
    assert (await diff_states(yard.log, request, yard.clock)).changes
    request.end.position = 3
    with pytest.raises(Rejected) as refused:
        await diff_states(yard.log, request, yard.clock)
    assert (refused.value.code, refused.value.metadata["waiting"]) == ("QUEUE_TOO_LONG", "3")


@pytest.mark.parametrize(("most", "skipped"), [(-1, 0), (10_001, 0), (1, -1)])
async def test_a_page_of_what_differs_has_bounds(most: int, skipped: int) -> None:
    yard = await yard_with_a_finished_run()
    request = DiffStatesRequest(begin=AsOf(position=1), changes_max=most, changes_skipped=skipped)
    with pytest.raises(InvalidInput) as refused:
        await diff_states(yard.log, request, yard.clock)
    assert refused.value.code == "BAD_PAGE_SIZE"


async def test_effects_go_forward_and_followers_are_of_the_same_request() -> None:
    yard = await yard_with_a_finished_run()
    queued = yard.ids[4]
    answer = await effects_of(yard.log, ListEffectsRequest(event_id=queued), yard.clock)
    caused = [(effect.depth, effect.event.envelope.type.split(".", 1)[1]) for effect in answer.effects]
    assert caused[0] == (1, "run.lease_granted")
    assert caused[-1][1] == "run.finished"
    assert {kind for _, kind in caused} >= {"node.gpus_reserved", "node.gpus_released"}
    assert not answer.followers
    numbered = await effects_of(yard.log, ListEffectsRequest(event_id=yard.ids[3]), yard.clock)
    assert not numbered.effects
    assert numbered.followers[0].event.envelope.event_id == queued
    then = AsOf(position=answer.effects[1].event.envelope.position)
    early = await effects_of(yard.log, ListEffectsRequest(event_id=queued, as_of=then), yard.clock)
    assert list(early.effects) == list(answer.effects)[: len(early.effects)]
    assert len(early.effects) == 2
    before = AsOf(position=answer.event.envelope.position - 1)
    with pytest.raises(NotFound, match="not there yet"):
        await effects_of(yard.log, ListEffectsRequest(event_id=queued, as_of=before), yard.clock)
    short = await effects_of(yard.log, ListEffectsRequest(event_id=queued, event_count_max=2), yard.clock)
    assert (len(short.effects), short.truncated) == (2, True)
    with pytest.raises(NotFound):
        await effects_of(yard.log, ListEffectsRequest(event_id=uuid7()), yard.clock)
    by_position = await effects_of(
        yard.log, ListEffectsRequest(event_id=str(answer.event.envelope.position)), yard.clock
    )
    assert by_position.event.envelope.event_id == queued
    with pytest.raises(NotFound):
        await effects_of(yard.log, ListEffectsRequest(event_id="99"), yard.clock)
    with pytest.raises(InvalidInput):
        await effects_of(yard.log, ListEffectsRequest(event_id="0198-abc"), yard.clock)


async def test_other_prices_give_other_costs_and_change_nothing() -> None:
    yard = await yard_with_a_finished_run()
    head = await yard.log.head()
    half = Price(unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=1_800_000_000)
    answer = await price_again(yard.log, PriceAgainRequest(project="digits", prices=[half]), yard.clock)
    assert (answer.recorded_micro_usd, answer.repriced_micro_usd) == (7_000_000, 3_500_000)
    dearer = Price(gpu_model="H100", unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=7_200_000_000)
    kept = PriceAgainRequest(run="digits#1", prices=[dearer], keep_recorded_prices=True)
    assert (await price_again(yard.log, kept, yard.clock)).repriced_micro_usd == 14_000_000
    assert await yard.log.head() == head
    # What a million dollars an hour come to always goes into an answer.
    beyond = Price(unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=10**12 + 1)
    bad: list[Message] = [
        PriceAgainRequest(project="digits"),
        PriceAgainRequest(project="digits", prices=[Price()]),
        PriceAgainRequest(project="No", prices=[half]),
        PriceAgainRequest(project="digits", prices=[beyond]),
    ]
    for request in bad:
        assert isinstance(request, PriceAgainRequest)
        with pytest.raises(InvalidInput):
            await price_again(yard.log, request, yard.clock)


async def test_leases_are_priced_beside_the_loop_that_serves_others(monkeypatch: pytest.MonkeyPatch) -> None:
    yard = await yard_with_a_finished_run()
    others_went_on = threading.Event()
    genuine = LeaseFold.terms

    def terms(
        fold: LeaseFold, run_ids: Iterable[str], lines: Iterable[PriceLine], horizon_ms: int
    ) -> Mapping[str, Sequence[Term]]:
        assert others_went_on.wait(10)
        return genuine(fold, run_ids, lines, horizon_ms)

    monkeypatch.setattr(LeaseFold, "terms", terms)
    half = Price(unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=1_800_000_000)
    asked = [
        shown(yard, 0, "digits", COST),
        price_again(yard.log, PriceAgainRequest(project="digits", prices=[half]), yard.clock),
    ]
    for question in asked:
        others_went_on.clear()
        asyncio.get_running_loop().call_later(0.01, others_went_on.set)
        await question
