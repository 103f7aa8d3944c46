"""Proves that the log and its archive still are what was sealed, or names what is not.

    python -m runyard_eventlog.verification verify --key KEY.pub [--archive FOLDER] [--archive-only]
    python -m runyard_eventlog.verification prove EVENT_ID [--archive FOLDER] > proof.json
    python -m runyard_eventlog.verification check-proof proof.json --key KEY.pub

``check-proof`` needs the file and the public key, nothing else. The others take the database from
RUNYARD_DATABASE_URL and, without ``--archive``, the store from RUNYARD_S3_{ENDPOINT,REGION,BUCKET,ACCESS_KEY,
SECRET_KEY}. Exit code 0: it holds. 1: it does not. 2: it could not be looked at.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import EventId
from runyard_core.errors import Corrupt, NotFound, Rejected
from runyard_eventlog.archive import Archive
from runyard_eventlog.chain import Finding, check_chain
from runyard_eventlog.copies import Copies, compare
from runyard_eventlog.manifest import LANE_NAMES, Manifest
from runyard_eventlog.port import EventLog
from runyard_eventlog.proof import make_proof
from runyard_eventlog.signing import PublicKey
from runyard_eventlog.stored_log import PostgresStoredLog, StoredLog

NOT_PROVEN = (
    "events after the newest segment, which nothing signs yet",
    "that the archive's end is there, when only the archive is looked at: compare the newest segment root",
    "that an event was true when it was appended, or that nothing was left out before",
    "anything against somebody who has the signing key and can change both database and archive",
)
"""What a verification does not prove."""


@dataclass(frozen=True, slots=True)
class LaneSummary:
    """What of a lane was looked at."""

    lane: str
    segment_count: int
    archived_count: int
    """Events recomputed from the archive."""
    database_count: int
    """Events recomputed from the database."""
    sealed_to: int
    head: int | None
    """Newest position; None when the database was not looked at."""
    segment_root: str
    """Of the newest segment: note it elsewhere, and nobody can rewrite what is before it."""


@dataclass(slots=True)
class Report:
    """What a verification found."""

    findings: list[Finding] = field(default_factory=list)
    lanes: list[LaneSummary] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """True when everything that is sealed is as it was sealed."""
        return not self.findings

    @property
    def events_per_second(self) -> float:
        """Events recomputed, each copy counted."""
        return sum(one.archived_count + one.database_count for one in self.lanes) / max(self.seconds, 1e-9)

    def lines(self) -> Iterator[str]:
        """Say it to a person."""
        yield from map(str, self.findings)
        for one in self.lanes:
            tail = (
                ""
                if one.head is None
                else f"; not sealed yet: {one.head - one.sealed_to} events to position {one.head}"
            )
            yield (
                f"lane {one.lane}: {one.segment_count} segments to position {one.sealed_to}, recomputed "
                f"{one.archived_count} events from the archive, {one.database_count} from the database{tail}"
            )
            yield f"  newest segment root {one.segment_root or 'none'}"
        yield (
            f"{'SOUND' if self.is_sound else 'NOT SOUND'}: {self.events_per_second:,.0f} events/s, "
            "an event in archive and database counted twice"
        )
        yield from (f"not proven: {what}" for what in NOT_PROVEN)


async def verify(
    archive: Archive,
    keys: Iterable[PublicKey],
    *,
    log: EventLog | None = None,
    stored: StoredLog | None = None,
    lanes: Sequence[Lane.ValueType] = tuple(LANE_NAMES),
) -> Report:
    """Recompute every sealed segment and compare.

    Args:
        archive: the segments.
        keys: the public keys that are trusted; take them from a safe place, not from the archive.
        log: where the events are that say what was sealed; None to leave them out.
        stored: the database's copy; None to look at the archive alone.
        lanes: which lanes.

    Raises:
        Unavailable: the archive or the database does not answer.
    """
    started, report = time.perf_counter(), Report()
    trusted = {key.key_id: key for key in keys}
    for lane in lanes:
        chain = await check_chain(archive, lane, trusted, log)
        report.findings.extend(chain.findings)
        archived = in_database = 0
        async for copies in _ahead(archive, stored, lane, chain.links):
            report.findings.extend(await asyncio.to_thread(compare, copies))
            archived += copies.manifest.event_count if copies.parquet is not None else 0
            in_database += copies.database_count
        newest = chain.links[-1] if chain.links else None
        report.lanes.append(
            LaneSummary(
                lane=LANE_NAMES[lane],
                segment_count=len(chain.links),
                archived_count=archived,
                database_count=in_database,
                sealed_to=newest.last_position if newest else 0,
                head=None if stored is None else await stored.head(lane),
                segment_root=newest.segment_root if newest else "",
            )
        )
    report.seconds = time.perf_counter() - started
    return report


async def prove(archive: Archive, lane: Lane.ValueType, position: int, event_id: str = "") -> bytes:
    """Write the inclusion proof of one event.

    Raises:
        NotFound: the event is not sealed yet.
        Corrupt: the segment is missing or damaged, or holds another event at that position.
    """
    try:
        name = await archive.segment_at(lane, position)
    except Corrupt as error:
        raise NotFound(
            f"position {position} of lane {LANE_NAMES[lane]} is not sealed yet: ask again later",
            code="NOT_SEALED",
        ) from error
    columns = await archive.columns(name)
    (event,) = columns.events([position - name.first_position])
    if event_id and str(event.event_id) != event_id:
        raise Corrupt(f"position {position} holds event {event.event_id}", code="EVENT_NOT_SEALED")
    return make_proof(await archive.manifest(name), columns.leaf_hashes(lane), event)


async def prove_event(archive: Archive, stored: StoredLog, event_id: EventId) -> bytes:
    """Write the inclusion proof of the event of an id.

    Raises:
        NotFound: the log does not know it, or it is not sealed yet.
        Corrupt: the segment is missing or damaged, or holds another event in its place.
    """
    place = await stored.locate(event_id)
    if place is None:
        raise NotFound(f"the log has no event {event_id}", code="EVENT_NOT_FOUND")
    return await prove(archive, *place, event_id)


async def detach_oldest_partition(
    pool: asyncpg.Pool, archive: Archive, keys: Iterable[PublicKey], log: EventLog, lane: Lane.ValueType
) -> str:
    """Verify a lane, then detach the oldest partition of its table; its name is given, its table stays.

    Args:
        pool: connections of an administrator.
        archive: must hold everything that the partition does.
        keys: the public keys that are trusted.
        log: where the seals are.
        lane: whose partition.

    Raises:
        Rejected: the verification failed, or the partition is not sealed whole or holds the head.
    """
    report = await verify(archive, keys, log=log, stored=PostgresStoredLog(pool), lanes=[lane])
    if not report.is_sound:
        raise Rejected(f"not detached, as the log is not sound: {report.findings[0]}", code="LOG_NOT_SOUND")
    try:
        async with pool.acquire() as connection:
            name: str = await connection.fetchval(
                "select log.detach_oldest_partition($1, $2)", lane, report.lanes[0].sealed_to
            )
    except asyncpg.PostgresError as error:
        if error.sqlstate != "RY002":
            raise
        raise Rejected(f"not detached: {error}", code="PARTITION_NEEDED") from error
    return name


async def _ahead(
    archive: Archive, stored: StoredLog | None, lane: Lane.ValueType, links: Sequence[Manifest]
) -> AsyncIterator[Copies]:
    """Fetch the copies of segments, always the next one's while one is compared."""
    fetching: asyncio.Task[Copies] | None = None
    try:
        for manifest in (*links, None):
            done = fetching
            fetching = asyncio.create_task(_fetch(archive, stored, lane, manifest)) if manifest else None
            if done is not None:
                yield await done
    finally:
        if fetching is not None:
            fetching.cancel()


async def _fetch(
    archive: Archive, stored: StoredLog | None, lane: Lane.ValueType, manifest: Manifest
) -> Copies:
    first, last = manifest.first_position, manifest.last_position
    parquet = await archive.store.get(manifest.name.parquet)
    leaves = await archive.store.get(manifest.name.leaves)
    if stored is None:
        return Copies(manifest, parquet, leaves, None, last + 1)
    start = max(first, await stored.first_position(lane))
    while True:
        contents = await stored.leaf_contents(lane, start, last)
        boundary = max(first, await stored.first_position(lane))
        if boundary == start:
            return Copies(manifest, parquet, leaves, contents, min(start, last + 1))
        # A partition was detached meanwhile.
        start = boundary


def main() -> None:
    """Run a command."""
    from runyard_eventlog.verification_commands import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
