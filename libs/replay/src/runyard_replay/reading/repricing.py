"""What recorded leases would have cost with another price book. Nothing is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.history.v1.history_service_pb2 import PriceAgainRequest, PriceAgainResponse, RepricedRun
from runyard_contracts.answer_size import items_that_fit
from runyard_contracts.ids import is_name
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput
from runyard_eventlog.port import EventLog
from runyard_eventlog.positions import past_time_asked_for
from runyard_replay.folding.leases import LeaseFold, price_line
from runyard_replay.pricing.explanation import cost_of
from runyard_replay.pricing.leases import Term
from runyard_replay.pricing.price_book import PriceLine
from runyard_replay.pricing.totals import total
from runyard_replay.reading.leases import lease_fold
from runyard_replay.reading.moments import Moment, moment_of
from runyard_replay.reading.registered import project_as_of
from runyard_replay.reading.subjects import check_project, find_run

PRICES_MAX = 1_000
MICRO_USD_PER_HOUR_MAX = 10**12
"""A million dollars an hour: the most that the price book takes."""
RUNS_MAX = 10_000


async def price_again(event_log: EventLog, request: PriceAgainRequest, clock: Clock) -> PriceAgainResponse:
    """Price the leases of a run or project twice: as recorded, and with other prices.

    Raises:
        InvalidInput: no prices, or one that cannot be (BAD_PRICE); no project's name (BAD_PROJECT); fewer
            runs than 0, or too many at once (BAD_PAGE_SIZE); a time that no calendar has (BAD_TIME).
        NotFound, Ambiguous: as ``find_run`` and ``check_project``.
        OutOfRange: as ``moment_of``; leases are to be counted up to the future (TIME_AHEAD).
        Unavailable: the log did not answer in time.
    """
    _check_prices(request.prices)
    if request.runs_skipped < 0 or not 0 <= request.runs_max <= RUNS_MAX:
        raise InvalidInput(f"runs_skipped is 0 or more, runs_max at most {RUNS_MAX}", code="BAD_PAGE_SIZE")
    moment = await moment_of(event_log, request.as_of, clock)
    if request.HasField("counted_to"):
        past_time_asked_for(request.counted_to, clock.now())
        moment = replace(moment, time=request.counted_to)
    fold = await lease_fold(event_log, moment.position)
    run_ids: Sequence[str]
    if request.WhichOneof("scope") == "run":
        run_ids = [await find_run(event_log, request.run, moment.position)]
    elif is_name(request.project):
        await check_project(event_log, request.project, moment.position)
        run_ids = fold.runs_of(request.project)
    else:
        raise InvalidInput(
            f"{request.project!r} is not a project's name",
            code="BAD_PROJECT",
            field_violations={"project": "not a name"},
        )
    names: dict[str, str] = {}
    for project in {fold.project_of_run[run_id] for run_id in run_ids if run_id in fold.project_of_run}:
        named = await project_as_of(event_log, project, moment.position, with_names=False)
        names |= {run_id: f"{project}#{number}" for run_id, number in named.number_of_run.items()}
    recorded_lines = fold.lines()
    other = _lines(request.prices, moment.position)
    if request.keep_recorded_prices:
        other = [*recorded_lines, *other]
    # In a thread, so that a long history does not hold other calls up.
    return await asyncio.to_thread(
        lambda: _answer(_priced(fold, run_ids, (recorded_lines, other), moment), names, request, moment)
    )


class _Priced(NamedTuple):
    """The terms of a run with both price books."""

    run_id: str
    recorded: Sequence[Term]
    repriced: Sequence[Term]


def _priced(
    fold: LeaseFold,
    run_ids: Sequence[str],
    books: tuple[Sequence[PriceLine], Sequence[PriceLine]],
    at: Moment,
) -> list[_Priced]:
    """Price runs twice; those that held nothing are left out."""
    recorded, repriced = (fold.terms(run_ids, book, at.horizon_ms) for book in books)
    return [_Priced(run_id, recorded[run_id], repriced[run_id]) for run_id in run_ids if run_id in recorded]


def _answer(
    priced: Sequence[_Priced], names: Mapping[str, str], request: PriceAgainRequest, moment: Moment
) -> PriceAgainResponse:
    """Sum all runs, and show as many as were asked for and go into a message."""
    runs = (
        RepricedRun(
            run_id=one.run_id,
            recorded=cost_of(one.recorded),
            repriced=cost_of(one.repriced),
            name=names.get(one.run_id, ""),
        )
        for one in priced[request.runs_skipped :]
    )
    listed = items_that_fit(runs, count_max=request.runs_max or RUNS_MAX)
    return PriceAgainResponse(
        position=moment.position,
        recorded_micro_usd=sum(total(one.recorded).micro_usd for one in priced),
        repriced_micro_usd=sum(total(one.repriced).micro_usd for one in priced),
        runs=listed.items,
        has_more_runs=listed.has_more,
        counted_to=moment.time,
    )


def _lines(prices: Sequence[Price], position: int) -> list[PriceLine]:
    """Give lines that stand behind every recorded one, in their order."""
    lines = []
    for index, price in enumerate(prices, start=1):
        named = Price()
        named.CopyFrom(price)
        named.price_id = price.price_id or f"what-if-{index}"
        lines.append(price_line(named, position=position + index))
    return lines


def _check_prices(prices: Sequence[Price]) -> None:
    if not 1 <= len(prices) <= PRICES_MAX:
        raise _bad_price("prices", f"{len(prices)} of them, want 1 to {PRICES_MAX}")
    for index, price in enumerate(prices):
        field = f"prices[{index}]"
        if price.node_id and price.gpu_model:
            raise _bad_price(field, "it is for a node or a GPU model, not for both")
        if price.unit not in (PriceUnit.PRICE_UNIT_GPU_HOUR, PriceUnit.PRICE_UNIT_NODE_HOUR):
            raise _bad_price(field, "its unit is neither PRICE_UNIT_GPU_HOUR nor PRICE_UNIT_NODE_HOUR")
        if price.gpu_model and price.unit == PriceUnit.PRICE_UNIT_NODE_HOUR:
            raise _bad_price(field, "a GPU model has GPU-hours, not node-hours")
        if not 0 <= price.micro_usd_per_hour <= MICRO_USD_PER_HOUR_MAX:
            raise _bad_price(field, f"it is not within 0 to {MICRO_USD_PER_HOUR_MAX} micro-dollars an hour")


def _bad_price(field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{field}: {problem}", code="BAD_PRICE", field_violations={field: problem})
