"""Detaches old partitions of the log, once everything in them is sealed and verified."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.errors import PermissionDenied, Rejected, Unavailable
from runyard_eventlog.archive import Archive
from runyard_eventlog.archived_log import ArchivedEventLog
from runyard_eventlog.connections import AWAY
from runyard_eventlog.manifest import LANE_NAMES
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.signing import PublicKey
from runyard_eventlog.stored_log import PostgresStoredLog
from runyard_eventlog.verification import verify

_REFUSED = "RY002"


@dataclass(frozen=True, slots=True)
class Partition:
    """A table that holds a range of a lane's positions."""

    lane: Lane.ValueType
    name: str
    first_position: int
    last_position: int


async def attached_before(pool: asyncpg.Pool, lane: Lane.ValueType, position: int) -> list[Partition]:
    """Give the full partitions that end before a position of the domain lane, the oldest first.

    Raises:
        Unavailable: the database does not answer.
    """
    # A telemetry event says which domain event was the newest when it came.
    statement = """
        select p.name, p.from_position, p.to_position from log.partition p
        where p.lane = $1 and p.detached_at is null and exists (
          select from log.event e
          where e.lane = $1 and e.position = p.to_position - 1
            and case $1 when 1 then e.position else e.after_position end < $2
        ) order by p.from_position
        """
    try:
        found = await pool.fetch(statement, lane, position)
    except AWAY as error:
        raise Unavailable(f"the log does not answer: {error!r}", code="LOG_UNREACHABLE") from error
    return [Partition(lane, row[0], row[1], row[2] - 1) for row in found]


async def detach_before(
    pool: asyncpg.Pool, archive: Archive, keys: Iterable[PublicKey], lane: Lane.ValueType, position: int
) -> list[Partition]:
    """Verify a lane, then detach its partitions that end before a position; the tables stay.

    Args:
        pool: connections of an administrator.
        archive: must hold everything that the partitions do.
        keys: the public keys that are trusted.
        lane: whose partitions.
        position: of the domain lane; a partition with something of it or later stays.

    Raises:
        Rejected: the verification failed (LOG_NOT_SOUND), or a partition is not sealed whole or holds the
            head (PARTITION_NEEDED); those before it are detached.
        PermissionDenied: the pool's role is no administrator of the log.
        Unavailable: the archive or the database does not answer.
    """
    partitions = await attached_before(pool, lane, position)
    if not partitions:
        return []
    stored = PostgresStoredLog(pool)
    async with PostgresEventLog(pool) as hot:
        log = ArchivedEventLog(hot, stored, archive)
        report = await verify(archive, keys, log=log, stored=stored, lanes=[lane])
    if not report.is_sound:
        raise Rejected(f"not detached, as the log is not sound: {report.findings[0]}", code="LOG_NOT_SOUND")
    for partition in partitions:
        await _detach_oldest(pool, partition, report.lanes[0].sealed_to)
    return partitions


async def _detach_oldest(pool: asyncpg.Pool, partition: Partition, verified_to: int) -> None:
    """Detach the oldest partition of a lane, which must be this one."""
    try:
        async with pool.acquire() as connection, connection.transaction():
            name = await connection.fetchval(
                "select log.detach_oldest_partition($1, $2)", partition.lane, verified_to
            )
            if name != partition.name:
                raise Rejected(
                    f"not detached: the oldest partition of lane {LANE_NAMES[partition.lane]} is {name}, "
                    f"and not {partition.name}: somebody else detaches too",
                    code="PARTITION_NEEDED",
                )
    except asyncpg.InsufficientPrivilegeError as error:
        raise PermissionDenied(f"not detached: {error}", code="NOT_ADMINISTRATOR") from error
    except AWAY as error:
        raise Unavailable(f"the log does not answer: {error!r}", code="LOG_UNREACHABLE") from error
    except asyncpg.PostgresError as error:
        if error.sqlstate != _REFUSED:
            raise
        raise Rejected(f"not detached: {error}", code="PARTITION_NEEDED") from error
