"""A log whose old partitions were detached: PostgreSQL, and below its first position the archive.

A reader cannot tell where one ends and the other begins. Without an archive, a read that goes below what the
database still has is refused, never answered in part.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import CommandId, EventId, Position, StreamName, stream_category
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Rejected
from runyard_eventlog import archive_reads
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import open_store
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.manifest import LANE_NAMES
from runyard_eventlog.port import (
    EVERYTHING,
    PAGE_BYTES_MAX,
    READ_LIMIT_MAX,
    AppendCommand,
    Appended,
    EventFilter,
    EventLog,
    LogHead,
    Page,
)
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.postgres_stream_index import PostgresStreamIndex
from runyard_eventlog.stored_log import PostgresStoredLog, StoredLog
from runyard_eventlog.stream_index import StreamIndex


@asynccontextmanager
async def open_event_log(
    pool: asyncpg.Pool, archive_url: str = "", *, doorbell: Doorbell | None = None
) -> AsyncIterator[EventLog]:
    """Open the whole log for as long as the block runs.

    Args:
        pool: at least four connections of a role that reads the log, and appends when this process does.
        archive_url: where detached partitions are, as ``open_store`` takes it; "" when there is no archive.
        doorbell: rung after every append of this process.
    """
    archive = Archive(open_store(archive_url)) if archive_url else None
    try:
        async with PostgresEventLog(pool, doorbell=doorbell) as event_log:
            yield ArchivedEventLog(event_log, PostgresStoredLog(pool), archive, PostgresStreamIndex(pool))
    finally:
        if archive is not None:
            archive.store.close()


class ArchivedEventLog:
    """Fills the ``EventLog`` port over a log in PostgreSQL and the archive of its detached partitions.

    What was detached stays detached, so a page is whole when the boundary did not move while it was read;
    otherwise it is read again.
    """

    def __init__(
        self, log: EventLog, stored: StoredLog, archive: Archive | None, index: StreamIndex | None = None
    ) -> None:
        """Read the log where it is, and the archive below its first position.

        Args:
            log: the part that is in the database.
            stored: its rows.
            archive: of what was detached; None refuses what is there.
            index: of the part that is in the database.
        """
        self._log = log
        self._stored = stored
        self._archive = archive
        self._index = index
        self._boundaries: dict[Lane.ValueType, int] = {}

    async def append(self, command: AppendCommand) -> Appended:
        """See ``EventLog.append``."""
        return await self._log.append(command)

    async def find_command(self, command_id: CommandId, request_digest: bytes = b"") -> Appended | None:
        """See ``EventLog.find_command``."""
        return await self._log.find_command(command_id, request_digest)

    async def head(self) -> LogHead:
        """See ``EventLog.head``."""
        return await self._log.head()

    async def read(
        self,
        lane: Lane.ValueType,
        *,
        after_position: Position = Position(0),
        to_position: Position | None = None,
        filter: EventFilter = EVERYTHING,  # noqa: A002 - the port's word
        limit: int = 1_000,
        descending: bool = False,
    ) -> Page:
        """See ``EventLog.read``.

        Raises:
            Corrupt: a segment that is needed is missing or damaged.
            Rejected: a segment is needed and there is no archive (ARCHIVE_NOT_CONFIGURED).
        """
        limit = min(limit, READ_LIMIT_MAX)
        while True:
            boundary = await self._boundary(lane)
            begins_cold = after_position + 1 < boundary
            newest_cold = boundary - 1 if to_position is None else min(to_position, boundary - 1)
            if begins_cold and not descending:
                return await self._read_up(lane, after_position, newest_cold, to_position, filter, limit)
            page = await self._log.read(
                lane,
                after_position=Position(max(after_position, boundary - 1)),
                to_position=to_position,
                filter=filter,
                limit=limit,
                descending=descending,
            )
            if page.whole_from > max(after_position + 1, boundary):
                self._boundaries[lane] = page.whole_from
                continue
            if not descending:
                return page
            if not begins_cold or page.is_full:
                return page
            left = limit - len(page.events)
            older = await self._read_cold(lane, after_position, newest_cold, filter, left, descending=True)
            return _joined(page, older)

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after_version: int = 0,
        to_position: Position | None = None,
        limit: int = READ_LIMIT_MAX,
    ) -> list[RecordedEvent]:
        """See ``EventLog.read_stream``.

        Raises:
            Corrupt: a segment that is needed is missing or damaged.
        """
        limit = min(limit, READ_LIMIT_MAX)
        hot = await self._log.read_stream(
            stream, after_version=after_version, to_position=to_position, limit=limit
        )
        if hot and hot[0].envelope.stream_version == after_version + 1:
            return hot
        lane = Lane.LANE_TELEMETRY if stream_category(stream) == "telemetry" else Lane.LANE_DOMAIN
        boundary = await self._stored.first_position(lane)
        if boundary == 1 or await self._stored.stream_version(stream) <= after_version:
            return hot
        newest = boundary - 1 if to_position is None else min(to_position, boundary - 1)
        archive = self._needed(lane, newest + 1)
        events = await archive_reads.read_stream(archive, lane, stream, after_version, newest)
        last = events[-1].envelope.stream_version if events else after_version
        # The partition of some may have been detached between the two looks.
        events += [event for event in hot if event.envelope.stream_version > last]
        return events[:limit]

    async def position_at(self, time: datetime) -> Position:
        """See ``EventLog.position_at``.

        Raises:
            Corrupt: a segment that is needed is missing or damaged.
        """
        found = await self._log.position_at(time)
        lane = Lane.LANE_DOMAIN
        boundary = await self._stored.first_position(lane)
        if found >= boundary or boundary == 1:
            return found
        return await archive_reads.position_at(self._needed(lane, boundary), lane, time, boundary - 1)

    async def find(self, event_id: EventId) -> RecordedEvent | None:
        """See ``EventLog.find``.

        Raises:
            Corrupt: the event's segment is missing or damaged.
        """
        found = await self._log.find(event_id)
        if found is not None:
            return found
        place = await self._stored.locate(event_id)
        if place is None:
            return None
        lane, position = place
        if position >= await self._stored.first_position(lane):
            # Appended between the two looks.
            return await self._log.find(event_id)
        page = await self._read_cold(lane, position - 1, position, EVERYTHING, 1, descending=False)
        return page.events[0]

    async def stream_index(self) -> StreamIndex | None:
        """See ``HasStreamIndex``: the database knows the whole lane while nothing of it is detached."""
        boundary = await self._stored.first_position(Lane.LANE_DOMAIN)
        return self._index if boundary == 1 else None

    def _needed(self, lane: Lane.ValueType, boundary: int) -> Archive:
        if self._archive is None:
            raise Rejected(
                f"events of lane {LANE_NAMES[lane]} below position {boundary} were detached to the archive, "
                "and no archive is known here: set RUNYARD_ARCHIVE_URL",
                code="ARCHIVE_NOT_CONFIGURED",
                metadata={"lane": LANE_NAMES[lane], "position": str(boundary)},
            )
        return self._archive

    async def _boundary(self, lane: Lane.ValueType) -> int:
        """Give the lowest position of the database, as of the last look."""
        if lane not in self._boundaries:
            self._boundaries[lane] = await self._stored.first_position(lane)
        return self._boundaries[lane]

    async def _read_up(
        self,
        lane: Lane.ValueType,
        after: Position,
        newest_cold: int,
        to: Position | None,
        wanted: EventFilter,
        limit: int,
    ) -> Page:
        """Read from the archive up into the database."""
        older = await self._read_cold(lane, after, newest_cold, wanted, limit, descending=False)
        if older.is_full or newest_cold == to:
            return older
        left = limit - len(older.events)
        newer = await self.read(
            lane, after_position=Position(newest_cold), to_position=to, filter=wanted, limit=left
        )
        return _joined(older, newer)

    async def _read_cold(
        self, lane: Lane.ValueType, after: int, to: int, wanted: EventFilter, limit: int, *, descending: bool
    ) -> Page:
        """Read a range of positions that is in the archive."""
        archive = self._needed(lane, to + 1)
        return await archive_reads.read_page(archive, lane, after, to, wanted, limit, descending=descending)


def _joined(first: Page, second: Page) -> Page:
    """Put the pages of both sides of the boundary together, as much of the second as one page holds."""
    events = list(first.events)
    if not events:
        return second
    room = PAGE_BYTES_MAX - sum(event.envelope.ByteSize() for event in events)
    for event in second.events:
        room -= event.envelope.ByteSize()
        if room < 0:
            return Page(events, events[-1].position, is_full=True)
        events.append(event)
    return Page(events, second.scanned_to, second.is_full)
