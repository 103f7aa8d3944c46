"""What many runs cost, in answers that go into a message."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest

from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    DiffStatesRequest,
    GetStateAsOfRequest,
    PriceAgainRequest,
    Subject,
    SubjectKind,
)
from runyard_contracts import answer_size
from runyard_core.errors import InvalidInput, OutOfRange
from runyard_replay.reading import repricing
from runyard_replay.reading.comparing import diff_states
from runyard_replay.reading.repricing import price_again
from runyard_replay.reading.states import state_as_of

from .yard import Yard

DIGITS = Subject(kind=SubjectKind.SUBJECT_KIND_COST, name="digits")


async def _yard_with_runs(count: int) -> tuple[Yard, list[str]]:
    """Give one where runs of digits hold a GPU for ever, the newest first."""
    yard = Yard()
    await yard.enroll()
    await yard.price(3600)
    run_ids = [str(uuid.UUID(int=number)) for number in range(1, count + 1)]
    for number, run_id in enumerate(run_ids, start=1):
        await yard.lease(await yard.queue(run_id, number), run_id)
    return yard, run_ids[::-1]


async def test_runs_that_are_priced_again_come_in_pages_with_the_sums_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yard, run_ids = await _yard_with_runs(5)
    head = (await yard.log.head()).domain_position
    half = Price(unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=1_800_000_000)
    request = PriceAgainRequest(project="digits", prices=[half], as_of=AsOf(position=head))
    whole = await price_again(yard.log, request, yard.clock)
    assert ([run.run_id for run in whole.runs], whole.has_more_runs) == (run_ids, False)
    assert whole.recorded_micro_usd == sum(run.recorded.micro_usd for run in whole.runs)
    request.runs_max = 2
    for room in (answer_size.ANSWER_BYTES_MAX, 1):
        # Of one byte, too, every page has a run.
        monkeypatch.setattr(answer_size, "ANSWER_BYTES_MAX", room)
        request.runs_skipped = 0
        page = await price_again(yard.log, request, yard.clock)
        pages = [page]
        while page.has_more_runs:
            request.runs_skipped += len(page.runs)
            pages.append(page := await price_again(yard.log, request, yard.clock))
        assert [len(page.runs) for page in pages] == ([2, 2, 1] if room > 1 else [1] * 5)
        assert [run for page in pages for run in page.runs] == list(whole.runs)
        assert {(page.recorded_micro_usd, page.repriced_micro_usd) for page in pages} == {
            (whole.recorded_micro_usd, whole.repriced_micro_usd)
        }
    for bad in (
        PriceAgainRequest(project="digits", prices=[half], runs_max=repricing.RUNS_MAX + 1),
        PriceAgainRequest(project="digits", prices=[half], runs_max=-1),
        PriceAgainRequest(project="digits", prices=[half], runs_skipped=-1),
    ):
        with pytest.raises(InvalidInput, match="runs_skipped"):
            await price_again(yard.log, bad, yard.clock)


async def test_later_pages_are_counted_to_the_time_of_the_first() -> None:
    yard, run_ids = await _yard_with_runs(3)
    half = Price(unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=1_800_000_000)
    request = PriceAgainRequest(project="digits", prices=[half])
    yard.clock.advance(timedelta(hours=1))
    whole = await price_again(yard.log, request, yard.clock)
    assert [run.repriced.micro_usd >= 1_800_000_000 for run in whole.runs] == [True] * 3
    # Time goes on, and so does the log.
    await yard.price(7200)
    yard.clock.advance(timedelta(hours=1))
    request.as_of.position, request.runs_skipped = whole.position, 1
    request.counted_to.CopyFrom(whole.counted_to)
    page = await price_again(yard.log, request, yard.clock)
    assert [run.run_id for run in page.runs] == run_ids[1:]
    assert list(page.runs) == list(whole.runs)[1:]
    assert (page.repriced_micro_usd, page.counted_to) == (whole.repriced_micro_usd, whole.counted_to)
    request.counted_to.FromDatetime(yard.clock.now() + timedelta(seconds=1))
    with pytest.raises(OutOfRange) as ahead:
        await price_again(yard.log, request, yard.clock)
    assert ahead.value.code == "TIME_AHEAD"
    request.counted_to.seconds = 10**12
    with pytest.raises(InvalidInput) as bad:
        await price_again(yard.log, request, yard.clock)
    assert bad.value.code == "BAD_TIME"


async def test_a_cost_of_many_runs_goes_into_a_message_and_counts_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yard, run_ids = await _yard_with_runs(5)
    request = GetStateAsOfRequest(subject=DIGITS)
    whole = (await state_as_of(yard.log, request, yard.clock)).cost
    monkeypatch.setattr(answer_size, "ANSWER_BYTES_MAX", whole.ByteSize() // 2)
    cost = (await state_as_of(yard.log, request, yard.clock)).cost
    assert [run.run_id for run in cost.runs] == run_ids[:2]
    assert (cost.run_count, cost.micro_usd) == (5, whole.micro_usd)
    # What differs is looked for among all of them.
    monkeypatch.undo()
    span = DiffStatesRequest(begin=AsOf(position=3), subject=DIGITS)
    changes = (await diff_states(yard.log, span, yard.clock)).changes
    assert {run_id for run_id in run_ids for change in changes if run_id in change.path} == set(run_ids)
