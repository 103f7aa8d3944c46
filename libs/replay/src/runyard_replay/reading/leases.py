"""Leases and the price book as they were at a position."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from runyard.event.v1.envelope_pb2 import Lane
from runyard_eventlog.port import EventFilter, EventLog
from runyard_replay.folding.leases import EVENT_TYPES, PRICE_TYPE, LeaseFold
from runyard_replay.reading.pages import read_pages
from runyard_replay.views import UNREADABLE


async def lease_fold(event_log: EventLog, position: int) -> LeaseFold:
    """Fold the price book and all leases up to a position.

    Raises:
        Unavailable: the log did not answer in time.
    """
    return await _fold(event_log, position, EVENT_TYPES)


async def price_fold(event_log: EventLog, position: int) -> LeaseFold:
    """Fold the price book alone.

    Raises:
        Unavailable: the log did not answer in time.
    """
    return await _fold(event_log, position, (PRICE_TYPE,))


async def _fold(event_log: EventLog, position: int, types: Sequence[str]) -> LeaseFold:
    fold = LeaseFold()
    pages = read_pages(event_log, Lane.LANE_DOMAIN, after=0, to=position, wanted=EventFilter(types=types))
    async with aclosing(pages):
        async for page in pages:
            for event in page.events:
                try:
                    fold.apply(event)
                except UNREADABLE:
                    continue
    return fold
