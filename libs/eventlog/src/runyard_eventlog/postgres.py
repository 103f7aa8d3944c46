"""The event log on PostgreSQL: appends by group commit, reads by keyset pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Self

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import CommandId, EventId, Position, StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Unavailable
from runyard_eventlog import refusals, rows
from runyard_eventlog.admission import admit
from runyard_eventlog.appender import Appender
from runyard_eventlog.connections import AWAY, Connection, close_pool, leave_as_it_is, nul_in_text
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.giving_way import wait_for_turn
from runyard_eventlog.port import (
    EVERYTHING,
    READ_LIMIT_MAX,
    AppendCommand,
    Appended,
    EventFilter,
    LogHead,
    Page,
)
from runyard_eventlog.same_log import SameLog

READ_SECONDS_MAX = 30.0
"""How long one read may take."""
_WINDOW_FIRST = 20_000
"""Positions that the first look of a filtered read scans; later looks scan more, so rare events are found."""


class PostgresEventLog:
    """Fills the ``EventLog`` port. One for each process; safe for any number of tasks of its loop."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        doorbell: Doorbell | None = None,
        append_seconds_max: float = 15.0,
        owns_pool: bool = False,
    ) -> None:
        """Use a pool of at least four connections; one of them stays with the appender.

        Args:
            pool: connections of a role that reads the log, and appends when this process does.
            doorbell: rung after every batch of appends of this process.
            append_seconds_max: how long an append may wait for its answer.
            owns_pool: close the pool together with the log.
        """
        self._pool = pool
        self._append_seconds_max = append_seconds_max
        self._owns_pool = owns_pool
        self._doorbell = doorbell
        self._appender = Appender(pool, self._appended)
        self._same_log = SameLog()

    @classmethod
    async def connect(
        cls, database_url: str, *, doorbell: Doorbell | None = None, connections_max: int = 8
    ) -> Self:
        """Open a log with its own connections.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            pool = await asyncpg.create_pool(
                database_url,
                min_size=1,
                max_size=connections_max,
                timeout=10.0,
                command_timeout=READ_SECONDS_MAX,
                reset=leave_as_it_is,
            )
        except AWAY as error:
            raise Unavailable(
                f"the log's database does not answer: {error}", code="LOG_UNREACHABLE"
            ) from error
        return cls(pool, doorbell=doorbell, owns_pool=True)

    async def close(self) -> None:
        """End the appender, and the pool when it is this log's own."""
        await self._appender.close()
        if self._owns_pool:
            await close_pool(self._pool)

    async def __aenter__(self) -> Self:
        """Give itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def append(self, command: AppendCommand) -> Appended:
        """See ``EventLog.append``."""
        return await self._appender.append(admit(command), self._append_seconds_max)

    async def find_command(self, command_id: CommandId, request_digest: bytes = b"") -> Appended | None:
        """See ``EventLog.find_command``."""
        async with self._reading() as connection:
            row = await connection.fetchrow(rows.COMMAND, command_id)
        if row is None:
            return None
        first, count = row["first_position"], row["event_count"]
        if request_digest and request_digest != row["digest"]:
            raise refusals.command_reused(command_id, first)
        positions = tuple(Position(position) for position in range(first, first + count))
        return Appended(positions[-1], positions, repeated=True)

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after_version: int = 0,
        to_position: Position | None = None,
        limit: int = READ_LIMIT_MAX,
    ) -> list[RecordedEvent]:
        """See ``EventLog.read_stream``."""
        statement, arguments = rows.stream(stream, after_version, to_position, min(limit, READ_LIMIT_MAX))
        async with self._reading() as connection:
            return list(rows.events(await connection.fetch(statement, *arguments)))

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
        """See ``EventLog.read``."""
        limit = min(limit, READ_LIMIT_MAX)
        await wait_for_turn()
        async with self._reading() as connection:
            # Positions have no gaps and become visible in order: what is at or below the head stays as it is.
            if filter == EVERYTHING and not descending:
                page = await _next_page(connection, lane, after_position, to_position, limit)
                if page.events:
                    self._same_log.saw(lane, page.scanned_to)
                return page
            head = await connection.fetchval(rows.lane_head(lane))
            self._same_log.saw(lane, head)
            low, high = after_position, head if to_position is None else min(to_position, head)
            if high <= low:
                return Page([], Position(max(low, high) if not descending else min(low + 1, high)))
            found: list[asyncpg.Record] = []
            whole_from = Position(1)
            window = high - low if filter == EVERYTHING or rows.is_selective(filter) else _WINDOW_FIRST
            while high > low:
                first, last = (
                    (max(low, high - window), high) if descending else (low, min(high, low + window))
                )
                statement, arguments = rows.page(
                    lane, first, last, filter, limit - len(found), descending=descending
                )
                statement = rows.with_first_position(lane, statement)
                window_rows = await _fetch(connection, statement, arguments, width=last - first)
                whole_from = Position(window_rows[0]["first_position"])
                if window_rows[0]["position"] is not None:
                    found += window_rows
                if len(found) == limit:
                    return Page(rows.events(found), Position(found[-1]["position"]), whole_from)
                low, high = (low, first) if descending else (last, high)
                window *= 8
        return Page(rows.events(found), Position(low + 1 if descending else high), whole_from)

    async def head(self) -> LogHead:
        """See ``EventLog.head``."""
        async with self._reading() as connection:
            (row,) = await connection.fetch(rows.HEAD)
        return LogHead(row["log_id"], Position(row["domain_position"]), Position(row["telemetry_position"]))

    async def position_at(self, time: datetime) -> Position:
        """See ``EventLog.position_at``."""
        async with self._reading() as connection:
            return Position(await connection.fetchval("select log.position_at($1)", time))

    async def find(self, event_id: EventId) -> RecordedEvent | None:
        """See ``EventLog.find``."""
        async with self._reading() as connection:
            found = await connection.fetch(rows.FIND, event_id)
        return next(iter(rows.events(found)), None)

    def _appended(self, lane: Lane.ValueType, position: Position) -> None:
        self._same_log.saw(lane, position)
        if self._doorbell is not None:
            self._doorbell.ring()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(READ_SECONDS_MAX), self._pool.acquire() as connection:
                await self._same_log.check(connection)
                yield connection
        except asyncpg.CharacterNotInRepertoireError as error:
            raise nul_in_text() from error
        except AWAY as error:
            raise Unavailable(f"the log does not answer: {error!r}", code="LOG_UNREACHABLE") from error


async def _next_page(
    connection: Connection, lane: Lane.ValueType, after: Position, to: Position | None, limit: int
) -> Page:
    """Read without asking for the head first: the last event found is as far as this page goes."""
    statement, arguments = rows.page(lane, after, to, EVERYTHING, limit, descending=False)
    found = await connection.fetch(statement, *arguments)
    if found:
        # Positions have no gaps.
        first, last = found[0]["position"], found[-1]["position"]
        return Page(rows.events(found), Position(last), Position(first))
    # What holds the head is never detached, so nothing is missing where the log ends.
    whole_from = 1 if to is None else await connection.fetchval(rows.first_position(lane))
    return Page([], after, Position(whole_from))


async def _fetch(
    connection: Connection, statement: str, arguments: list[object], *, width: int
) -> list[asyncpg.Record]:
    """Run a statement over a window of positions; over a wide one with a plan made for these arguments.

    From a statement's sixth run on PostgreSQL keeps one plan for all arguments. It takes every window for a
    small part of the log, and may walk over all of a wide one for the few events that an index leads to.
    """
    if width <= _WINDOW_FIRST:
        return await connection.fetch(statement, *arguments)
    return await (await connection.prepare(statement)).fetch(*arguments)
