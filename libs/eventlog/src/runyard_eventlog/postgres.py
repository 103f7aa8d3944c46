"""The event log on PostgreSQL: appends by group commit, reads by keyset pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
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
from runyard_eventlog.fitting import FittingRows, size_of
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
        self._fitting = FittingRows()

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
                window = rows.Window(lane, after_position, to_position, EVERYTHING, limit)
                page = await self._next_page(connection, window)
                if page.events:
                    self._same_log.saw(lane, page.scanned_to)
                return page
            head = await connection.fetchval(rows.lane_head(lane))
            self._same_log.saw(lane, head)
            to = head if to_position is None else Position(min(to_position, head))
            if to <= after_position:
                return Page([], min(Position(after_position + 1), to) if descending else after_position)
            window = rows.Window(lane, after_position, to, filter, limit, descending)
            return await self._page(connection, window)

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

    async def _next_page(self, connection: Connection, window: rows.Window) -> Page:
        """Read without asking for the head first: the last event found is as far as this page goes."""
        limit = window.limit
        fitting = await self._fitting.fetch(
            lambda statement, arguments: connection.fetch(statement, *arguments),
            window,
            page_limit=limit,
            had_bytes=0,
        )
        found = fitting.rows
        if found:
            # Positions have no gaps.
            first, last = Position(found[0][0]), Position(found[-1][0])
            return Page(rows.events(found), last, fitting.is_cut or len(found) == limit, whole_from=first)
        # What holds the head is never detached, so nothing is missing where the log ends.
        first_position = rows.first_position(window.lane)
        whole_from = 1 if window.to is None else await connection.fetchval(first_position)
        return Page([], Position(window.after), whole_from=Position(whole_from))

    async def _page(self, connection: Connection, asked: rows.Window) -> Page:
        """Read what a filter wants, or from the end: in windows that grow, so that rare events are found."""
        low, high, lane = Position(asked.after), Position(asked.to or asked.after), asked.lane
        found: list[asyncpg.Record] = []
        whole_from = Position(1)
        is_one = asked.wanted == EVERYTHING or rows.is_selective(asked.wanted)
        width = high - low if is_one else _WINDOW_FIRST
        while high > low:
            first, last = (
                (max(low, high - width), high) if asked.descending else (low, min(high, low + width))
            )
            window = replace(asked, after=first, to=last, limit=asked.limit - len(found))

            async def run(
                statement: str, arguments: list[object], width: int = last - first
            ) -> list[asyncpg.Record]:
                statement = rows.with_first_position(lane, statement)
                return await _fetch(connection, statement, arguments, width=width)

            fitting = await self._fitting.fetch(run, window, page_limit=asked.limit, had_bytes=size_of(found))
            whole_from = Position(fitting.first["first_position"]) if fitting.first else whole_from
            found += fitting.rows
            if fitting.is_cut or len(found) == asked.limit:
                return Page(rows.events(found), Position(found[-1][0]), is_full=True, whole_from=whole_from)
            low, high = (low, Position(first)) if asked.descending else (Position(last), high)
            width *= 8
        scanned_to = Position(low + 1) if asked.descending else high
        return Page(rows.events(found), scanned_to, whole_from=whole_from)

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
