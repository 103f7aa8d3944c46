"""Finds the mirror of the log as it is now, makes it when there is none or it has lost something."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from nats.aio.client import Client
from nats.js.api import StreamInfo

from runyard_eventlog.connections import Connection
from runyard_eventlog.mirror import KEPT, Mirror, MirrorEntry, MirrorMismatch, configuration, read_messages
from runyard_eventlog.mirror_judgement import (
    Halt,
    Keep,
    LogSighting,
    MirrorSighting,
    Refill,
    differing_settings,
    judge,
)

CLOCK_SKEW_MAX = timedelta(hours=1)
"""The bus lets events go by its own clock, which may be so far ahead of the database's."""

_log = logging.getLogger(__name__)

_LOG_SIGHTING = """
select coalesce((select position from log.domain_event order by position desc limit 1), 0),
  (select min(from_position) from log.partition where lane = 1 and detached_at is null),
  log.position_at($1) + 1
"""


async def log_id_of(connection: Connection) -> str:
    """Read which log this is."""
    found: str = await connection.fetchval("select log_id::text from log.identity")
    return found


async def settled_mirror(connection: Connection, client: Client, *, replicas: int) -> tuple[Mirror, int]:
    """Give the mirror and its last position, after whatever had to be done to it.

    Raises:
        MirrorMismatch: it holds something that the log does not; nothing was touched.
    """
    mirror = Mirror(client, await log_id_of(connection), replicas=replicas)
    info = await mirror.info()
    if info is None:
        return mirror, await _fill_anew(connection, mirror)
    seen = await sight_mirror(mirror, info, replicas=replicas)
    match judge(await sight_log(connection, seen, mirror.log_id), seen):
        case Keep():
            return mirror, seen.last
        case Refill(reason):
            _log.warning("relay: mirror %s is filled anew: %s", mirror.name, reason)
            await mirror.delete()
            return mirror, await _fill_anew(connection, mirror)
        case Halt(reason):
            raise MirrorMismatch(reason)


async def _fill_anew(connection: Connection, mirror: Mirror) -> int:
    first: int = await connection.fetchval("select log.position_at($1) + 1", datetime.now(UTC) - KEPT)
    await mirror.create(first)
    _log.info("relay: made mirror %s from position %d", mirror.name, first)
    return first - 1


async def sight_mirror(mirror: Mirror, info: StreamInfo, *, replicas: int) -> MirrorSighting:
    """Look at the mirror's ends."""
    state = info.state
    ends = {state.first_seq, state.last_seq} if state.messages else set()
    entries = [await mirror.entry_at(sequence) for sequence in sorted(ends)]
    return MirrorSighting(
        name=mirror.name,
        differing_settings=differing_settings(info.config, configuration(mirror.name, 1, replicas)),
        first=state.first_seq,
        last=state.last_seq,
        count=state.messages,
        entries=[entry for entry in entries if entry is not None],
    )


async def sight_log(connection: Connection, mirror: MirrorSighting, log_id: str) -> LogSighting:
    """Look at the same places of the log."""
    ((head, first, expected),) = await connection.fetch(
        _LOG_SIGHTING, datetime.now(UTC) - KEPT + CLOCK_SKEW_MAX
    )
    entries: list[MirrorEntry] = []
    for found in mirror.entries:
        page = await read_messages(connection, found.position - 1, 1, log_id)
        entries.extend(message.entry for message in page if message.position == found.position)
    return LogSighting(head=head, first_position=first, first_expected=expected, entries=entries)
