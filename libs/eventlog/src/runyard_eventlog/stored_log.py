"""The rows of the log as they are stored: what sealing takes in and verification compares."""

# ruff: noqa: S608 - only names from the code are put into statements

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import EventId, StreamName
from runyard_core.errors import InvalidInput, Unavailable
from runyard_eventlog.connections import AWAY, Connection
from runyard_eventlog.stored_columns import COLUMNS_SQL, WHOLE_SQL, StoredColumns
from runyard_eventlog.stored_event import COLUMNS, StoredEvent

SEAL_TYPE = "runyard.log.segment_sealed"
"""Stored name of the event that says that a segment is sealed."""
_SECONDS_MAX = 60.0
_ROWS_EACH = 500
_EVENT_ID_PREFIX = re.compile("[0-9a-f]{8,32}")
_SEALING_LOCK = 0x5345414C
_TABLES = {Lane.LANE_DOMAIN: "log.domain_event", Lane.LANE_TELEMETRY: "log.telemetry_event"}


@dataclass(frozen=True, slots=True)
class Tail:
    """What of a lane is not sealed yet."""

    head: int
    first_recorded_at: datetime | None
    """None when everything is sealed."""
    is_only_seals: bool
    """True when it holds nothing but events that say that a segment was sealed."""


class StoredLog(Protocol):
    """Every row of the log that the database still has."""

    async def first_position(self, lane: Lane.ValueType) -> int:
        """Give the lowest position that was not detached; 1 when nothing was. It never goes down."""
        ...

    async def head(self, lane: Lane.ValueType) -> int:
        """Give the newest position; 0 when the lane is empty."""
        ...

    async def tail(self, lane: Lane.ValueType, after: int, events_max: int) -> Tail:
        """Look at the next events after a position, at most so many."""
        ...

    async def cut(self, lane: Lane.ValueType, after: int, events_max: int, bytes_max: int) -> int:
        """Give the last position of the longest run of events within both limits, of at least one event."""
        ...

    async def read(self, lane: Lane.ValueType, first: int, last: int) -> list[StoredEvent]:
        """Give the rows of a range of positions, in order."""
        ...

    async def columns(self, lane: Lane.ValueType, first: int, last: int) -> list[StoredColumns]:
        """Give the rows of a range of positions, in order, as columns of some of them after the other."""
        ...

    async def locate(self, event_id: EventId) -> tuple[Lane.ValueType, int] | None:
        """Give the lane and position of an event, also of one that was detached."""
        ...

    async def ids_from(self, prefix: str) -> list[EventId]:
        """Give the first two ids that begin with these digits, also of events that were detached.

        Raises:
            InvalidInput: it is no event id, nor 8 or more of its first digits.
        """
        ...

    async def stream_version(self, stream: StreamName) -> int:
        """Give the version of a stream's last event; 0 when there is no such stream."""
        ...

    def sealing(self, lane: Lane.ValueType) -> AbstractAsyncContextManager[bool]:
        """Try to become the only one who seals a lane; gives False when somebody else is."""
        ...


def id_range(prefix: str) -> tuple[UUID, UUID]:
    """Give the lowest and the highest UUID that begin with these digits.

    Raises:
        InvalidInput: it is no UUID, nor 8 or more of its first digits (BAD_EVENT_ID).
    """
    digits = prefix.lower().replace("-", "")
    if not _EVENT_ID_PREFIX.fullmatch(digits):
        raise InvalidInput(
            f"{prefix!r} is not an event id: want a UUID as `runyard history tail --output json` shows it, "
            "or 8 or more of its first digits",
            code="BAD_EVENT_ID",
        )
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


class PostgresStoredLog:
    """The rows of the log in PostgreSQL. A call raises ``Unavailable`` when the database does not answer."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Use a pool of any role that reads the log."""
        self._pool = pool

    async def first_position(self, lane: Lane.ValueType) -> int:
        """See ``StoredLog``."""
        statement = (
            "select coalesce((select min(from_position) from log.partition "
            "where lane = $1 and detached_at is null), 1)"
        )
        return await self._value(statement, lane)

    async def head(self, lane: Lane.ValueType) -> int:
        """See ``StoredLog``."""
        return await self._value(
            f"select coalesce((select position from {_TABLES[lane]} order by position desc limit 1), 0)"
        )

    async def tail(self, lane: Lane.ValueType, after: int, events_max: int) -> Tail:
        """See ``StoredLog``."""
        statement = f"""
        with newest as (select position from {_TABLES[lane]} order by position desc limit 1)
        select coalesce((select position from newest), 0),
          (select recorded_at from {_TABLES[lane]} where position = $1 + 1), not exists (
          select from (select type from {_TABLES[lane]} where position > $1 order by position limit $2) next
          where type <> $3)
        """
        async with self._reading() as connection:
            (row,) = await connection.fetch(statement, after, events_max, SEAL_TYPE)
        return Tail(row[0], row[1], is_only_seals=row[2])

    async def cut(self, lane: Lane.ValueType, after: int, events_max: int, bytes_max: int) -> int:
        """See ``StoredLog``."""
        statement = f"""
        select max(position) from (
          select position, sum(octet_length(payload)) over (order by position) as size from {_TABLES[lane]}
          where position > $1 and position <= $1 + $2
        ) next where size <= $3 or position = $1 + 1
        """
        return await self._value(statement, after, events_max, bytes_max)

    async def read(self, lane: Lane.ValueType, first: int, last: int) -> list[StoredEvent]:
        """See ``StoredLog``."""
        statement = (
            f"select {', '.join(COLUMNS)} from {_TABLES[lane]} "
            "where position between $1 and $2 order by position"
        )
        async with self._reading() as connection:
            return [StoredEvent(*row) for row in await connection.fetch(statement, first, last)]

    async def columns(self, lane: Lane.ValueType, first: int, last: int) -> list[StoredColumns]:
        """See ``StoredLog``."""
        # So many rows at once: half the time of one large value, and of one for each row.
        statement = f"""
        select columns.* from generate_series($1::bigint, $2, {_ROWS_EACH}) low, lateral (
          select {COLUMNS_SQL} from (
            select * from {_TABLES[lane]}
            where position between low and least($2, low + {_ROWS_EACH - 1})
              and lane = {lane:d} and {WHOLE_SQL} order by position
          ) rows having count(*) > 0
        ) columns
        """
        async with self._reading() as connection:
            found = await connection.fetch(statement, first, last)
        return [StoredColumns.of_row(row) for row in found]

    async def locate(self, event_id: EventId) -> tuple[Lane.ValueType, int] | None:
        """See ``StoredLog``."""
        async with self._reading() as connection:
            row = await connection.fetchrow(
                "select lane, position from log.event_id where event_id = $1", event_id
            )
        return None if row is None else (row["lane"], row["position"])

    async def ids_from(self, prefix: str) -> list[EventId]:
        """See ``StoredLog``."""
        statement = (
            "select event_id::text from log.event_id "
            "where event_id between $1 and $2 order by event_id limit 2"
        )
        async with self._reading() as connection:
            return [EventId(row[0]) for row in await connection.fetch(statement, *id_range(prefix))]

    async def stream_version(self, stream: StreamName) -> int:
        """See ``StoredLog``."""
        return await self._value("select coalesce(max(version), 0) from log.stream where stream = $1", stream)

    @asynccontextmanager
    async def sealing(self, lane: Lane.ValueType) -> AsyncIterator[bool]:
        """See ``StoredLog``."""
        async with self._reading(seconds_max=None) as connection:
            has_lock = await connection.fetchval("select pg_try_advisory_lock($1, $2)", _SEALING_LOCK, lane)
            try:
                yield has_lock
            finally:
                if has_lock and not connection.is_closed():
                    await connection.execute("select pg_advisory_unlock($1, $2)", _SEALING_LOCK, lane)

    async def _value(self, statement: str, *arguments: object) -> int:
        async with self._reading() as connection:
            found: int = await connection.fetchval(statement, *arguments)
            return found

    @asynccontextmanager
    async def _reading(self, seconds_max: float | None = _SECONDS_MAX) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(seconds_max), self._pool.acquire(timeout=_SECONDS_MAX) as connection:
                yield connection
        except AWAY as error:
            raise Unavailable(f"the log does not answer: {error!r}", code="LOG_UNREACHABLE") from error
