"""Proves that the log and its archive still are what was sealed, or names what is not."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.errors import Ambiguous, Corrupt, NotFound
from runyard_eventlog.archive import Archive
from runyard_eventlog.chain import Finding, check_chain, told
from runyard_eventlog.manifest import LANE_NAMES, Manifest
from runyard_eventlog.port import EventLog
from runyard_eventlog.proof import make_proof
from runyard_eventlog.signing import PublicKey
from runyard_eventlog.stored_log import StoredLog
from runyard_eventlog.verification_share import Compared, Places, comparing

NOT_PROVEN = (
    "events after the newest segment, which nothing signs yet",
    "that the archive's end is there, when only the archive is looked at: compare the newest segment root",
    "that an event was true when it was appended, or that nothing was left out before",
    "anything against somebody who has the signing key and can change both database and archive",
)
"""What a verification does not prove."""
NEXT_STEP = (
    "next: repair nothing before a copy of database and archive is kept; "
    "docs/how-to/verify-the-log.md says what each finding means"
)
"""What to do when it is not sound."""
EVENTS_FOR_PROCESSES = 1_000_000
"""From so many events on, starting processes takes less time than they save."""


@dataclass(frozen=True, slots=True)
class LaneSummary:
    """What of a lane was looked at."""

    lane: str
    segment_count: int
    """Segments of the chain; their contents were recomputed where they are in the range asked for."""
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
    def event_count(self) -> int:
        """Events recomputed, an event of both archive and database once."""
        return sum(max(one.archived_count, one.database_count) for one in self.lanes)

    @property
    def events_per_second(self) -> float:
        """Events recomputed in a second, an event of both archive and database once."""
        return self.event_count / max(self.seconds, 1e-9)

    def lines(self) -> Iterator[str]:
        """Say it to a person."""
        yield from told(self.findings)
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
        verdict = "SOUND" if self.is_sound else "NOT SOUND"
        rate = f"{self.event_count:,} events in {self.seconds:.1f} s, {self.events_per_second:,.0f} events/s"
        yield f"{verdict}: {rate}"
        if self.findings:
            yield NEXT_STEP
        yield from (f"not proven: {what}" for what in NOT_PROVEN)


async def verify(
    archive: Archive,
    keys: Iterable[PublicKey],
    *,
    log: EventLog | None = None,
    stored: StoredLog | None = None,
    lanes: Sequence[Lane.ValueType] = tuple(LANE_NAMES),
    is_wanted: Callable[[Manifest], bool] = lambda _: True,
    process_count: int = 1,
    database_url: str = "",
) -> Report:
    """Recompute sealed segments and compare. The whole chain is always checked.

    Args:
        archive: the segments.
        keys: the public keys that are trusted; take them from a safe place, not from the archive.
        log: where the events are that say what was sealed; None to leave them out.
        stored: the database's copy; None to look at the archive alone.
        lanes: which lanes.
        is_wanted: which segments' contents.
        process_count: processes that fetch and compare when it is much; hashing takes a core by itself.
        database_url: of the database's copy, for processes to open; "" lets this one do it all.

    Raises:
        Unavailable: the archive or the database does not answer.
    """
    started, report = time.perf_counter(), Report()
    trusted = {key.key_id: key for key in keys}
    chains = {lane: await check_chain(archive, lane, trusted, log) for lane in lanes}
    event_count = sum(
        link.event_count for chain in chains.values() for link in chain.links if is_wanted(link)
    )
    if event_count < EVENTS_FOR_PROCESSES or (stored is not None and not database_url):
        process_count = 1
    elif stored is not None and process_count > 1:
        # One of them waits for the database, as a rule.
        process_count += 1
    # This process holds the copies of what it does at once; others are to have work while one is late.
    at_once = 3 if process_count == 1 else 4 * process_count
    with comparing(Places(archive, stored), database_url, process_count) as compared_copies:
        for lane, chain in chains.items():
            report.findings.extend(chain.findings)
            archived = in_database = 0
            works = (compared_copies(lane, link) for link in chain.links if is_wanted(link))
            async for compared in _in_order(works, at_once):
                report.findings.extend(compared.findings)
                archived += compared.archived_count
                in_database += compared.database_count
            head = None if stored is None else await stored.head(lane)
            report.lanes.append(_summary(lane, chain.links, archived, in_database, head))
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


async def prove_event(archive: Archive, stored: StoredLog, event_id: str) -> bytes:
    """Write the inclusion proof of the event of an id, or of its first digits.

    Raises:
        NotFound: the log does not know it, or it is not sealed yet.
        Ambiguous: several events begin with these digits.
        Corrupt: the segment is missing or damaged, or holds another event in its place.
    """
    found = await stored.ids_from(event_id)
    if not found:
        raise NotFound(f"the log has no event {event_id}", code="EVENT_NOT_FOUND")
    if len(found) > 1:
        raise Ambiguous(
            f"several events begin with {event_id}: {', '.join(found)}, ... Give more digits",
            code="AMBIGUOUS_EVENT_ID",
        )
    place = await stored.locate(found[0])
    if place is None:
        raise NotFound(f"the log has no event {event_id}", code="EVENT_NOT_FOUND")
    return await prove(archive, *place, found[0])


def _summary(
    lane: Lane.ValueType, links: Sequence[Manifest], archived: int, in_database: int, head: int | None
) -> LaneSummary:
    return LaneSummary(
        lane=LANE_NAMES[lane],
        segment_count=len(links),
        archived_count=archived,
        database_count=in_database,
        sealed_to=links[-1].last_position if links else 0,
        head=head,
        segment_root=links[-1].segment_root if links else "",
    )


async def _in_order(
    works: Iterable[Coroutine[None, None, Compared]], at_once: int
) -> AsyncIterator[Compared]:
    """Do works side by side, so many at once, and give their results in order."""
    running: deque[asyncio.Task[Compared]] = deque()
    try:
        for work in works:
            running.append(asyncio.create_task(work))
            if len(running) == at_once:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
