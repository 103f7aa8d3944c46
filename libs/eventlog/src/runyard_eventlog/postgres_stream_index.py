"""The index of streams on PostgreSQL: the index of types holds the streams, so no row of the log is read."""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Unavailable
from runyard_eventlog import rows
from runyard_eventlog.connections import AWAY, Connection
from runyard_eventlog.stream_index import OpenStreams

_SECONDS_MAX = 30.0

_OPEN = """
select coalesce(string_agg(int8send(b.position), ''::bytea), ''::bytea) from log.domain_event b
where b.type = $1 and b.position <= $2 and not exists (
  select from log.domain_event e where e.type = $3 and e.position <= $2 and e.stream = b.stream)
"""
_MOVED = """
select distinct m.stream from log.domain_event m
where m.type = any($1::text[]) and m.position <= $2 and not exists (
  select from log.domain_event e where e.type = $3 and e.position <= $2 and e.stream = m.stream)
"""
_ENDED = "select count(*) from log.domain_event where type = $1 and position <= $2"
# The driver takes as long to look at each number of an array as the database to find its row.
_PAYLOADS = """
select coalesce(string_agg(payload, ''::bytea), ''::bytea) from (
  select payload from log.domain_event where position = any($1::text::bigint[]) order by position) found
"""


class PostgresStreamIndex:
    """``StreamIndex`` over the partitions that are in the database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Use connections of a role that reads the log; two at a time."""
        self._pool = pool

    async def open_streams(self, begin: str, moves: Sequence[str], end: str, to: int) -> OpenStreams:
        """See ``StreamIndex``."""
        begun, (moved, ended_count) = await asyncio.gather(
            self._begun(begin, end, to), self._moved(moves, end, to)
        )
        return OpenStreams(begun, moved, ended_count)

    async def payloads(self, positions: Sequence[int]) -> bytes:
        """See ``StreamIndex``."""
        async with self._reading() as connection:
            found: bytes = await connection.fetchval(_PAYLOADS, f"{{{','.join(map(str, positions))}}}")
        return found

    async def events(self, positions: Sequence[int]) -> list[RecordedEvent]:
        """See ``StreamIndex``."""
        async with self._reading() as connection:
            found = await connection.fetch(rows.at_positions(Lane.LANE_DOMAIN), positions)
        return list(rows.events(found))

    async def _begun(self, begin: str, end: str, to: int) -> Sequence[int]:
        async with self._reading() as connection:
            found = array("q", await connection.fetchval(_OPEN, begin, to, end))
        if sys.byteorder == "little":
            found.byteswap()
        return found

    async def _moved(self, moves: Sequence[str], end: str, to: int) -> tuple[list[StreamName], int]:
        async with self._reading() as connection:
            moved = [StreamName(row[0]) for row in await connection.fetch(_MOVED, moves, to, end)]
            return moved, await connection.fetchval(_ENDED, end, to)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(_SECONDS_MAX), self._pool.acquire() as connection:
                yield connection
        except AWAY as error:
            raise Unavailable(f"the log does not answer: {error!r}", code="LOG_UNREACHABLE") from error
