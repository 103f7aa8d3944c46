"""Walks over an event log in bounded pages."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position, StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.port import EVERYTHING, READ_LIMIT_MAX, EventFilter, EventLog, Page
from runyard_eventlog.reading_ahead import ReadingAhead

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
    pages = ReadingAhead(
        lambda position: event_log.read(
            lane, after_position=position, to_position=Position(to), filter=wanted, limit=PAGE_EVENTS
        )
    )
    try:
        while after < to:
            page = await pages.page_after(Position(after))
            if page.scanned_to <= after:
                return
            after = page.scanned_to
            if after < to:
                await pages.ask_after(page.scanned_to)
            yield page
    finally:
        pages.close()


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
