"""Reads events out of sealed segments as a log gives them; ``archived_log`` knows what is there."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import cast

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position, StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog import rows
from runyard_eventlog.archive import Archive
from runyard_eventlog.memory import matches
from runyard_eventlog.port import PAGE_BYTES_MAX, EventFilter, Page
from runyard_eventlog.segment_file import SegmentColumns
from runyard_eventlog.stored_event import StoredEvent

_TOGETHER = 1_000


async def read_page(
    archive: Archive,
    lane: Lane.ValueType,
    after: int,
    to: int,
    wanted: EventFilter,
    limit: int,
    *,
    descending: bool,
) -> Page:
    """Read a range of positions that is in the archive, as ``EventLog.read``.

    Raises:
        Corrupt: a segment is missing or damaged.
    """
    found: list[RecordedEvent] = []
    room = PAGE_BYTES_MAX
    low, high = after, to
    while low < high:
        name = await archive.segment_at(lane, high if descending else low + 1)
        columns = await archive.columns(name)
        first, last = max(low + 1, name.first_position), min(high, name.last_position)
        for size_bytes, event in _matching(columns, wanted, first, last, descending=descending):
            room -= size_bytes
            if room < 0:
                return Page(found, found[-1].position, is_full=True)
            found.append(event)
            if len(found) == limit:
                return Page(found, event.position, is_full=True)
        low, high = (low, first - 1) if descending else (last, high)
    return Page(found, Position(after + 1 if descending else max(after, to)))


async def read_stream(
    archive: Archive, lane: Lane.ValueType, stream: StreamName, after_version: int, to: int
) -> list[RecordedEvent]:
    """Collect a stream's events from the newest segment down, as a stream is short in time.

    Raises:
        Corrupt: a segment is missing or damaged.
    """
    found: list[StoredEvent] = []
    wanted = EventFilter(streams=[stream])
    while to > 0:
        name = await archive.segment_at(lane, to)
        columns = await archive.columns(name)
        events = columns.events(columns.matching(wanted, name.first_position, to))
        found[:0] = [event for event in events if event.version > after_version]
        if events and events[0].version <= after_version + 1:
            break
        to = name.first_position - 1
    return list(_recorded(found))


async def position_at(archive: Archive, lane: Lane.ValueType, time: datetime, to: int) -> Position:
    """Give the last position up to one that was recorded at or before a time; 0 when none was.

    Raises:
        Corrupt: a segment is missing or damaged.
    """
    low, high = 0, to
    # The segment of the answer: each step reads one manifest's segment and halves what is left.
    while low < high:
        name = await archive.segment_at(lane, (low + high + 1) // 2)
        times = (await archive.columns(name)).recorded_at
        if times[0] > time:
            high = name.first_position - 1
        elif times[-1] <= time:
            low = min(name.last_position, high)
        else:
            return Position(min(name.first_position + bisect.bisect_right(times, time) - 1, high))
    return Position(low)


def _matching(
    columns: SegmentColumns, wanted: EventFilter, first: int, last: int, *, descending: bool
) -> Iterator[tuple[int, RecordedEvent]]:
    """Give events with the bytes of their payloads."""
    indexes = columns.matching(wanted, first, last)
    if descending:
        indexes.reverse()
    for start in range(0, len(indexes), _TOGETHER):
        stored = columns.events(indexes[start : start + _TOGETHER])
        for one, event in zip(stored, _recorded(stored), strict=True):
            if matches(event.envelope, wanted):
                yield len(one.payload), event


def _recorded(events: Sequence[StoredEvent]) -> Iterator[RecordedEvent]:
    as_rows = [
        (one.position, rows.added_raw(one.recorded_at, one.after_position), one.payload) for one in events
    ]
    yield from rows.events(cast("list[asyncpg.Record]", as_rows))
