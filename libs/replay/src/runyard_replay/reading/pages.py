"""Walks over an event log in bounded pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position, StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.port import EVERYTHING, READ_LIMIT_MAX, EventFilter, EventLog, Page

PAGE_EVENTS = 2_000
"""Of a walk over a lane. Telemetry batches are tens of kilobytes each, so their pages are smaller."""
PAGE_BATCHES = 250


async def read_lane(
    event_log: EventLog,
    lane: Lane.ValueType,
    *,
    after: int,
    to: int,
    wanted: EventFilter = EVERYTHING,
) -> AsyncGenerator[RecordedEvent, None]:
    """Give the events of a lane between two positions, the first excluded, in order."""
    limit = PAGE_BATCHES if lane == Lane.LANE_TELEMETRY else PAGE_EVENTS
    while after < to:
        page = await event_log.read(
            lane, after_position=Position(after), to_position=Position(to), filter=wanted, limit=limit
        )
        for event in page.events:
            yield event
        if page.scanned_to <= after:
            return
        after = page.scanned_to


async def read_pages(
    event_log: EventLog, lane: Lane.ValueType, *, after: int, to: int, wanted: EventFilter
) -> AsyncGenerator[Page, None]:
    """Give pages of the events between two positions; while one is worked on, the next is read."""

    def read(position: int) -> asyncio.Task[Page]:
        return asyncio.create_task(
            event_log.read(
                lane,
                after_position=Position(position),
                to_position=Position(to),
                filter=wanted,
                limit=PAGE_EVENTS,
            )
        )

    ahead = read(after)
    try:
        while after < to:
            page = await ahead
            if page.scanned_to <= after:
                return
            after = page.scanned_to
            if after < to:
                ahead = read(after)
                await asyncio.sleep(0)  # lets it ask, as the caller may not give way while it works
            yield page
    finally:
        ahead.cancel()


async def read_stream(
    event_log: EventLog, stream: StreamName, *, to: int
) -> AsyncGenerator[RecordedEvent, None]:
    """Give the events of one stream up to a position of its lane, in order."""
    version = 0
    while True:
        page = await event_log.read_stream(
            stream, after_version=version, to_position=Position(to), limit=READ_LIMIT_MAX
        )
        for event in page:
            yield event
        if len(page) < READ_LIMIT_MAX:
            return
        version = page[-1].envelope.stream_version


async def event_at(event_log: EventLog, lane: Lane.ValueType, position: int) -> RecordedEvent | None:
    """Give the event at a position; None when the lane does not reach it."""
    page = await event_log.read(
        lane, after_position=Position(position - 1), to_position=Position(position), limit=1
    )
    return page.events[0] if page.events else None


async def last_where(
    event_log: EventLog, lane: Lane.ValueType, head: int, holds: Callable[[RecordedEvent], bool]
) -> int:
    """Give the last position for which something holds that, once false, stays false; 0 when for none.

    Reads one event for each doubling of the lane.
    """
    low, high = 0, head
    while low < high:
        middle = (low + high + 1) // 2
        event = await event_at(event_log, lane, middle)
        if event is not None and holds(event):
            low = middle
        else:
            high = middle - 1
    return low


async def telemetry_after(event_log: EventLog, head: int, domain_position: int) -> int:
    """Give the last telemetry position that came before a position of the domain lane."""
    return await last_where(
        event_log,
        Lane.LANE_TELEMETRY,
        head,
        lambda event: event.envelope.after_position < domain_position,
    )
