"""The index of streams on PostgreSQL: the index of types holds the streams, so no row of the log is read."""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from runyard_contracts.ids import StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Unavailable
from runyard_eventlog import rows
from runyard_eventlog.connections import AWAY, Connection
from runyard_eventlog.stream_index import PAYLOADS_TOGETHER, OpenStreams

_SECONDS_MAX = 30.0
_MORE_STREAMS = 4
"""How many times as many streams are looked at next."""

_COUNT = "select count(*) from log.domain_event where type = $1 and position <= $2"
# Of the newest streams only: what ended of them did so behind where the oldest of these begins.
_BEGUN = """
with older as (
  select coalesce((
    select position from log.domain_event where type = $1 and position <= $2
    order by position desc offset $4 limit 1
  ), 0) as position
)
select coalesce(string_agg(int8send(b.position), ''::bytea), ''::bytea) from log.domain_event b
where b.type = $1 and b.position > (select position from older) and b.position <= $2 and not exists (
  select from log.domain_event e
  where e.type = $3 and e.position > (select position from older) and e.position <= $2
    and e.stream = b.stream)
"""
# Nothing of a stream comes before its begin: nothing before the first one that goes on is looked at.
_MOVED = """
select array_agg(distinct m.stream) from log.domain_event m
where m.type = any($1::text[]) and m.position between $2 and $3 and not exists (
  select from log.domain_event e
  where e.type = $4 and e.position between $2 and $3 and e.stream = m.stream)
"""
_COUNTS = """
select count(*) filter (where stream = $2), count(*) filter (where stream <> $2)
from log.domain_event where type = $1 and position <= $3
"""
_POSITIONS = """
select coalesce(string_agg(int8send(position), ''::bytea) filter (where stream = $2), ''::bytea),
  coalesce(string_agg(int8send(position), ''::bytea) filter (where stream <> $2), ''::bytea)
from log.domain_event where type = $1 and position between $3 and $4
"""
# An array of numbers is a text here: the driver takes as long to look at a number of one as the database to
# find its row, and on each connection asks the database what a bigint[] is, which takes ten milliseconds.
# Many arrays with one statement, as each statement is planned anew; and short ones: what the database puts
# together for one stays below what it takes from the kernel, and gives back, each time.
_PAYLOADS = """
select (
  select coalesce(string_agg(payload, ''::bytea), ''::bytea) from (
    select payload from log.domain_event where position = any(part.positions::bigint[]) order by position
  ) found
) from (
  select positions from unnest($1::text[]) with ordinality given(positions, number) order by number
) part
"""
_EVENTS = """
select position, timestamptz_send(recorded_at), payload from log.domain_event
where position = any($1::text::bigint[]) order by position
"""
# Stream by stream: asked for "any" of five hundred, a connection that has asked often walks all positions.
_EVENTS_OF = """
select found.position, timestamptz_send(found.recorded_at), found.payload
from unnest($1::text[]) with ordinality given(stream, number) cross join lateral (
  select * from log.domain_event
  where stream = given.stream collate "C" and type = any($2::text[]) and position <= $3
) found
order by given.number, found.version
"""


class PostgresStreamIndex:
    """``StreamIndex`` over the partitions that are in the database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Use connections of a role that reads the log; one for each call, two for open streams."""
        self._pool = pool

    async def open_streams(self, begin: str, moves: Sequence[str], end: str, to: int) -> OpenStreams:
        """See ``StreamIndex``."""
        begun_count, ended_count = await asyncio.gather(self._count(begin, to), self._count(end, to))
        begun = await self._begun(begin, end, to, begun_count, begun_count - ended_count)
        moved = await self._moved(moves, end, min(begun), to) if begun else []
        return OpenStreams(begun, moved, ended_count)

    async def counts(self, type_name: str, stream: StreamName, to: int) -> tuple[int, int]:
        """See ``StreamIndex``."""
        of_stream, elsewhere = await self._two(_COUNTS, type_name, stream, to)
        return of_stream, elsewhere

    async def positions(
        self, type_name: str, stream: StreamName, first: int, to: int
    ) -> tuple[Sequence[int], Sequence[int]]:
        """See ``StreamIndex``."""
        of_stream, elsewhere = await self._two(_POSITIONS, type_name, stream, first, to)
        return _numbers(of_stream), _numbers(elsewhere)

    async def payloads(self, positions: Sequence[int]) -> list[bytes]:
        """See ``StreamIndex``."""
        parts = [
            _array(positions[start : start + PAYLOADS_TOGETHER])
            for start in range(0, len(positions), PAYLOADS_TOGETHER)
        ]
        async with self._reading() as connection:
            return [row[0] for row in await connection.fetch(_PAYLOADS, parts)]

    async def events_of(
        self, streams: Sequence[StreamName], types: Sequence[str], to: int
    ) -> list[RecordedEvent]:
        """See ``StreamIndex``."""
        async with self._reading() as connection:
            found = await connection.fetch(_EVENTS_OF, streams, types, to)
        return list(rows.events(found))

    async def events(self, positions: Sequence[int]) -> list[RecordedEvent]:
        """See ``StreamIndex``."""
        async with self._reading() as connection:
            found = await connection.fetch(_EVENTS, _array(positions))
        return list(rows.events(found))

    # Who asks for one row gets no workers beside it: here they are half as much work again, for little time.

    async def _two(self, statement: str, *arguments: object) -> tuple[Any, Any]:
        async with self._reading() as connection:
            row = await connection.fetchrow(statement, *arguments)
        if row is None:
            raise AssertionError("what is put together is always one row")
        return row[0], row[1]

    async def _count(self, type_name: str, to: int) -> int:
        async with self._reading() as connection:
            count: int = await connection.fetchval(_COUNT, type_name, to)
        return count

    async def _begun(self, begin: str, end: str, to: int, begun_count: int, open_count: int) -> Sequence[int]:
        """Look at so many of the newest streams as go on, and at more when some of these have ended."""
        found: Sequence[int] = ()
        newest_count = open_count
        async with self._reading() as connection:
            while len(found) != open_count and newest_count:
                found = _numbers(await connection.fetchval(_BEGUN, begin, to, end, newest_count))
                newest_count = newest_count * _MORE_STREAMS if newest_count < begun_count else 0
        return found

    async def _moved(self, moves: Sequence[str], end: str, first: int, to: int) -> list[StreamName]:
        async with self._reading() as connection:
            streams = await connection.fetchval(_MOVED, moves, first, to, end)
        return [StreamName(stream) for stream in streams or ()]

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(_SECONDS_MAX), self._pool.acquire() as connection:
                yield connection
        except AWAY as error:
            raise Unavailable(f"the log does not answer: {error!r}", code="LOG_UNREACHABLE") from error


def _numbers(sent: bytes) -> Sequence[int]:
    """Read what ``int8send`` wrote."""
    numbers = array("q", sent)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _array(numbers: Sequence[int]) -> str:
    return f"{{{str(list(numbers))[1:-1]}}}"
