"""A log in memory with its rows, some of which may be detached, and an archive of it."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard.metric.v1.batches_pb2 import LogChunkRecorded
from runyard.run.v1.events_pb2 import RunStatusDetailSet
from runyard_contracts.envelope import Context, actor_name, parse_actor, wrap
from runyard_contracts.ids import CommandId, EventId, Position, StreamName, stream_name, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import ManualClock
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import ArchiveStore, FolderStore
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import (
    EVERYTHING,
    READ_LIMIT_MAX,
    AppendCommand,
    EventFilter,
    Page,
    StreamAppend,
)
from runyard_eventlog.sealing import Sealer
from runyard_eventlog.segment_seals import SealingSettings
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_columns import WIDTHS, StoredColumns
from runyard_eventlog.stored_event import HEADER, StoredEvent, canonical_bytes
from runyard_eventlog.stored_log import SEAL_TYPE, Tail, id_range

DOMAIN, TELEMETRY = Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY
LANES = (DOMAIN, TELEMETRY)
COLUMN_ROWS = 3


class HotLog(MemoryEventLog):
    """A log in memory that lost what is below a boundary, as a table does by a detached partition."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(now=clock.now)
        self.boundaries: dict[Lane.ValueType, int] = {DOMAIN: 1, TELEMETRY: 1}

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after_version: int = 0,
        to_position: Position | None = None,
        limit: int = READ_LIMIT_MAX,
    ) -> list[RecordedEvent]:
        events = await super().read_stream(stream, after_version=after_version, to_position=to_position)
        return [event for event in events if event.position >= self.boundaries[event.envelope.lane]][:limit]

    async def read(
        self,
        lane: Lane.ValueType,
        *,
        after_position: Position = Position(0),
        to_position: Position | None = None,
        filter: EventFilter = EVERYTHING,  # noqa: A002
        limit: int = 1_000,
        descending: bool = False,
    ) -> Page:
        page = await super().read(
            lane,
            after_position=Position(max(after_position, self.boundaries[lane] - 1)),
            to_position=to_position,
            filter=filter,
            limit=limit,
            descending=descending,
        )
        is_at_its_end = descending and not page.is_full
        scanned_to = Position(after_position + 1) if is_at_its_end else page.scanned_to
        return Page(page.events, scanned_to, page.is_full, whole_from=Position(self.boundaries[lane]))

    async def position_at(self, time: datetime) -> Position:
        return max(await super().position_at(time), Position(self.boundaries[DOMAIN] - 1))

    async def find(self, event_id: EventId) -> RecordedEvent | None:
        found = await super().find(event_id)
        return None if found is None or found.position < self.boundaries[found.envelope.lane] else found


class MemoryStoredLog:
    """The rows of such a log, which a test may change."""

    def __init__(self, log: HotLog) -> None:
        self.log = log
        self.changed: dict[tuple[Lane.ValueType, int], StoredEvent | None] = {}
        """Rows that somebody changed by hand, by lane and position; None for a dropped one."""
        self.is_taken = False

    def rows(self, lane: Lane.ValueType) -> list[StoredEvent]:
        stored = self.log._lanes[lane]
        genuine = {
            position: row(position, after, recorded_at, payload)
            for position, (after, recorded_at, payload) in enumerate(
                zip(stored.after_positions, stored.recorded_at, stored.payloads, strict=True), start=1
            )
        }
        changed = {position: event for (of, position), event in self.changed.items() if of == lane}
        merged = {**genuine, **changed}
        return [
            event
            for position, event in sorted(merged.items())
            if event is not None and position >= self.log.boundaries[lane]
        ]

    async def first_position(self, lane: Lane.ValueType) -> int:
        return self.log.boundaries[lane]

    async def head(self, lane: Lane.ValueType) -> int:
        return self.log._lanes[lane].head

    async def tail(self, lane: Lane.ValueType, after: int, events_max: int) -> Tail:
        following = [event for event in self.rows(lane) if event.position > after][:events_max]
        return Tail(
            self.log._lanes[lane].head,
            following[0].recorded_at if following else None,
            all(event.type == SEAL_TYPE for event in following),
        )

    async def cut(self, lane: Lane.ValueType, after: int, events_max: int, bytes_max: int) -> int:
        size, last = 0, after
        for event in self.rows(lane):
            if after < event.position <= after + events_max:
                size += len(event.payload)
                if size <= bytes_max or event.position == after + 1:
                    last = event.position
        return last

    async def read(self, lane: Lane.ValueType, first: int, last: int) -> list[StoredEvent]:
        return [event for event in self.rows(lane) if first <= event.position <= last]

    async def columns(self, lane: Lane.ValueType, first: int, last: int) -> list[StoredColumns]:
        found = await self.read(lane, first, last)
        return [columns_of(found[at : at + COLUMN_ROWS]) for at in range(0, len(found), COLUMN_ROWS)]

    async def locate(self, event_id: EventId) -> tuple[Lane.ValueType, int] | None:
        known = self.log._events.get(event_id)
        return None if known is None else (known.lane, known.positions[0])

    async def ids_from(self, prefix: str) -> list[EventId]:
        low, high = map(str, id_range(prefix))
        return [EventId(one) for one in sorted(self.log._events) if low <= one <= high][:2]

    async def stream_version(self, stream: StreamName) -> int:
        return len(self.log._streams.get(stream, ()))

    @asynccontextmanager
    async def sealing(self, lane: Lane.ValueType) -> AsyncIterator[bool]:
        yield not self.is_taken


class Yard:
    """A log, an archive and somebody who seals."""

    def __init__(self, folder: Path, events_max: int = 10) -> None:
        self.clock = ManualClock()
        self.log = HotLog(self.clock)
        self.stored = MemoryStoredLog(self.log)
        self.store: ArchiveStore = FolderStore(folder / "archive")
        self.folder = folder / "archive"
        self.key = SigningKey.load_or_create(folder / "segment.key")
        self.sealed_to: dict[Lane.ValueType, int] = {}
        self.settings = SealingSettings(events_max=events_max, age_max=timedelta(minutes=10))

    def sealer(self) -> Sealer:
        return Sealer(self.log, self.stored, self.store, self.key, settings=self.settings, clock=self.clock)

    def archive(self) -> Archive:
        return Archive(self.store)

    async def fill(self, count: int, lane: Lane.ValueType = DOMAIN, streams: int = 3) -> None:
        """Append single events to several streams, a second apart."""
        for number in range(count):
            stream = stream_of(lane, number % streams)
            version = len(self.log._streams.get(stream, ()))
            self.clock.advance(timedelta(seconds=1))
            await self.log.append(
                AppendCommand(
                    CommandId(uuid7()), [StreamAppend(stream, version, [event(stream, f"n{number}", number)])]
                )
            )

    async def seal_all(self, lane: Lane.ValueType = DOMAIN) -> int:
        """Seal whatever is full; gives the position that it is sealed to."""
        sealed_to = 0
        sealer = self.sealer()
        while (manifest := await sealer.seal_next(lane)) is not None:
            sealed_to = manifest.last_position
        return sealed_to


def stream_of(lane: Lane.ValueType, number: int) -> StreamName:
    return stream_name("telemetry" if lane == TELEMETRY else "run", f"s{number}")


def event(stream: StreamName, text: str, number: int = 0) -> Envelope:
    given = Context(
        parse_actor("user:alice" if number % 2 else "service:scheduler"),
        correlation_id=f"request-{number % 5}",
        source="/scheduler",
        causation_id=uuid7() if number % 3 else "",
    )
    message: LogChunkRecorded | RunStatusDetailSet
    if stream.startswith("telemetry"):
        message = LogChunkRecorded(first_line_number=1, lines=[text])
    else:
        message = RunStatusDetailSet(run_id="s", attempt=1, status_detail=text)
    return wrap(message, stream, given, datetime(2026, 1, 1, tzinfo=UTC))


def row(position: int, after_position: int, recorded_at: datetime, payload: bytes) -> StoredEvent:
    """Give the row of the log's table that a stored envelope has."""
    envelope = Envelope.FromString(payload)
    return StoredEvent(
        position=position,
        after_position=after_position,
        version=envelope.stream_version,
        recorded_at=recorded_at,
        event_id=UUID(envelope.event_id),
        causation_id=UUID(envelope.causation_id) if envelope.causation_id else None,
        stream=envelope.stream,
        type=envelope.type,
        correlation_id=envelope.correlation_id,
        actor=actor_name(envelope.actor),
        payload=payload,
    )


def columns_of(rows: Iterable[StoredEvent]) -> StoredColumns:
    """Give rows as the database does, made of their canonical bytes."""
    fixed, bodies = [b""] * len(WIDTHS), [b""] * 6
    for one in rows:
        content = canonical_bytes(one, DOMAIN)
        *lengths, actor, payload = HEADER.unpack_from(content)[6:]
        together = sum(length << shift for length, shift in zip(lengths, (58, 42, 21, 0), strict=True))
        packed = struct.pack(">QII", together, actor, payload)
        for column, at in enumerate((2, 10, 18, 26)):
            fixed[column] += content[at : at + 8]
        for column, value in enumerate((content[34:50], packed[:8], packed[8:]), 4):
            fixed[column] += value
        at = HEADER.size
        for column, length in enumerate((*lengths, actor, payload)):
            bodies[column] += content[at : at + length]
            at += length
    return StoredColumns(tuple(fixed), tuple(bodies))


def facts(events: Iterable[RecordedEvent]) -> list[bytes]:
    """Give events in a form that compares: position, times and all."""
    return [one.envelope.SerializeToString(deterministic=True) for one in events]
