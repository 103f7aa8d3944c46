"""First half of a verification: a lane's manifests, their chain, their signatures, and the log's seals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.events_pb2 import LogSegmentSealed
from runyard_contracts.ids import Position
from runyard_core.errors import Corrupt
from runyard_eventlog.archive import Archive
from runyard_eventlog.difference import Kind
from runyard_eventlog.manifest import FIRST_PREVIOUS_ROOT, LANE_NAMES, Manifest, SegmentName
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.segment_seals import manifest_of, seal_stream
from runyard_eventlog.signing import PublicKey
from runyard_eventlog.stored_log import SEAL_TYPE

_MANIFESTS_AT_ONCE = 16
_MISSING_MAX = 10_000
"""Most segments that are named one by one as missing before the next; one further away is a stray."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was sealed."""

    kind: Kind
    lane: str
    segment: int
    where: str
    """The copy that is wrong: "database", "archive" or "seal" (the event in the log)."""
    detail: str
    position: int | None = None
    event_id: str = ""

    def __str__(self) -> str:
        """Say it in a line."""
        return self.to_segment(self.segment)

    def to_segment(self, last: int) -> str:
        """Say it in a line, of all segments from its own to another one."""
        event = "" if self.position is None else f" position {self.position}"
        event += f" event {self.event_id}" if self.event_id else ""
        segments = f"segment {last}" if last == self.segment else f"segments {self.segment} to {last}"
        place = f"lane {self.lane} {segments}{event}"
        return f"{self.kind.upper()}: {place} ({self.where}) {self.detail}".strip()


def told(findings: Iterable[Finding]) -> Iterator[str]:
    """Say findings in a line each, and in one what is the same of segments that follow each other."""

    def run_of(numbered: tuple[int, Finding]) -> Finding:
        index, one = numbered
        return replace(one, segment=one.segment - index)

    for _, run in groupby(enumerate(findings), run_of):
        same = [one for _, one in run]
        yield same[0].to_segment(same[-1].segment)


@dataclass(slots=True)
class Chain:
    """The segments of a lane."""

    links: list[Manifest] = field(default_factory=list)
    """In order; each as the archive says it, or as the log says where the archive's word does not hold."""
    findings: list[Finding] = field(default_factory=list)


async def check_chain(
    archive: Archive, lane: Lane.ValueType, keys: Mapping[str, PublicKey], log: EventLog | None
) -> Chain:
    """Check manifests, chain and signatures of a lane.

    Args:
        archive: the segments.
        lane: whose segments.
        keys: the public keys that are trusted, by key id.
        log: where the seals are; None to check the archive alone.
    """
    chain = Chain()
    seals: dict[int, Manifest] = {}
    has_every_seal = False
    if log is not None:
        seals, has_every_seal = await _seals(archive, log, lane, chain)
    names: dict[int, list[SegmentName]] = {}
    for found in await archive.names(lane):
        names.setdefault(found.number, []).append(found)
    manifests = await _manifests(archive, [name for some in names.values() for name in some])
    checker = _Checker(LANE_NAMES[lane], keys, chain)
    newest = _newest(names.keys() | seals.keys())
    for number in sorted(number for number in names if not 1 <= number <= newest):
        for stray in names[number]:
            checker.find(Kind.UNKNOWN_SEGMENT, number, f"{stray} has a number that no segment has")
    for number in range(1, newest + 1):
        seal = seals.get(number)
        name = checker.choose(number, names.get(number, []), seal)
        stored = None if name is None else manifests[name]
        if isinstance(stored, Corrupt):
            checker.find(Kind.BAD_MANIFEST, number, stored.message)
            stored = None
        checker.add(number, stored, seal, is_newest=number == newest, has_log=has_every_seal)
    await _find_strays(archive, lane, names, checker)
    return chain


def _newest(numbers: Iterable[int]) -> int:
    newest = 0
    for number in sorted(numbers):
        if number > newest + _MISSING_MAX:
            break
        newest = max(number, newest)
    return newest


async def _manifests(archive: Archive, names: Sequence[SegmentName]) -> dict[SegmentName, Manifest | Corrupt]:
    """Read manifests, some at a time, as an object store takes milliseconds for each."""

    async def read(name: SegmentName) -> Manifest | Corrupt:
        try:
            return await archive.manifest(name)
        except Corrupt as error:
            return error

    found: dict[SegmentName, Manifest | Corrupt] = {}
    for start in range(0, len(names), _MANIFESTS_AT_ONCE):
        some = names[start : start + _MANIFESTS_AT_ONCE]
        found.update(zip(some, await asyncio.gather(*map(read, some)), strict=True))
    return found


class _Checker:
    """Goes along the chain."""

    def __init__(self, lane: str, keys: Mapping[str, PublicKey], chain: Chain) -> None:
        self._lane = lane
        self._keys = keys
        self._chain = chain
        self._next_position = 1
        self._previous: str | None = FIRST_PREVIOUS_ROOT.hex()

    def find(self, kind: Kind, number: int, detail: str, where: str = "archive") -> None:
        """Add a finding."""
        self._chain.findings.append(Finding(kind, self._lane, number, where, detail))

    def choose(self, number: int, names: Sequence[SegmentName], seal: Manifest | None) -> SegmentName | None:
        """Choose the objects of a segment; of several, the ones that the log or else the chain names."""
        first = self._next_position if seal is None else seal.first_position
        last = None if seal is None else seal.last_position
        ordered = sorted(
            names, key=lambda one: (one.first_position != first, last not in (None, one.last_position))
        )
        for stray in ordered[1:]:
            self.find(Kind.UNKNOWN_SEGMENT, number, f"{stray} has the number of {ordered[0]}")
        if not ordered:
            known = "" if seal is None else f": positions {seal.first_position} to {seal.last_position}"
            self.find(Kind.MISSING_SEGMENT, number, f"the archive has no manifest of it{known}")
        return ordered[0] if ordered else None

    def add(
        self, number: int, stored: Manifest | None, seal: Manifest | None, *, is_newest: bool, has_log: bool
    ) -> None:
        """Check one segment and make it the next link."""
        is_stored_good = stored is not None and self._is_signed(stored, "archive")
        is_seal_good = seal is not None and (seal == stored or self._is_signed(seal, "seal"))
        if stored is not None and seal is not None and not _agree(stored, seal):
            self.find(Kind.OTHER_SEAL, number, "the log's event and the archive's manifest differ", "seal")
        # The newest one may be between its manifest and its event.
        if stored is not None and seal is None and has_log and not is_newest:
            self.find(Kind.OTHER_SEAL, number, "the log has no event that seals it", "seal")
        link = stored if is_stored_good or not is_seal_good else seal
        if link is None:
            self._previous = None
            return
        if link.first_position != self._next_position and self._previous is not None:
            self.find(
                Kind.BROKEN_CHAIN,
                number,
                f"begins at position {link.first_position}, not at {self._next_position}",
            )
        elif self._previous not in (None, link.previous_segment_root):
            self.find(Kind.BROKEN_CHAIN, number, "does not follow the segment before it")
        self._next_position, self._previous = link.last_position + 1, link.segment_root
        self._chain.links.append(link)

    def _is_signed(self, manifest: Manifest, where: str) -> bool:
        number = manifest.number
        if manifest.event_count != manifest.last_position - manifest.first_position + 1:
            self.find(Kind.BAD_MANIFEST, number, f"it counts {manifest.event_count} events", where)
            return False
        if manifest.computed_segment_root().hex() != manifest.segment_root:
            self.find(Kind.BAD_MANIFEST, number, "its segment root is not over what it says", where)
            return False
        key = self._keys.get(manifest.key_id)
        if key is None:
            self.find(
                Kind.FOREIGN_KEY, number, f"signed by key {manifest.key_id}, which is not trusted", where
            )
            return False
        if not key.has_signed(bytes.fromhex(manifest.segment_root), bytes.fromhex(manifest.signature)):
            self.find(Kind.BAD_SIGNATURE, number, f"the signature is not of key {manifest.key_id}", where)
            return False
        return True


async def _seals(
    archive: Archive, log: EventLog, lane: Lane.ValueType, chain: Chain
) -> tuple[dict[int, Manifest], bool]:
    """Read the seals of a lane, by number; and say whether all of the log could be read for them."""
    head = (await log.head()).domain_position
    try:
        seals, findings = await _seals_between(log, lane, 0, head)
    except Corrupt:
        # The database has detached what the archive has damaged: all else is to be compared nevertheless.
        return await _readable_seals(archive, log, lane, head, chain), False
    chain.findings += findings
    return seals, True


async def _readable_seals(
    archive: Archive, log: EventLog, lane: Lane.ValueType, head: Position, chain: Chain
) -> dict[int, Manifest]:
    """Read the seals of a lane segment by segment, and name the segments that cannot be read."""
    names = {name.first_position - 1: name for name in await archive.names(Lane.LANE_DOMAIN)}
    cuts = sorted({0, head, *names, *(name.last_position for name in names.values())})
    seals: dict[int, Manifest] = {}
    number = 0
    for after, to in pairwise(cut for cut in cuts if 0 <= cut <= head):
        is_there = after in names
        number = names[after].number if is_there else number + 1
        try:
            some, findings = await _seals_between(log, lane, after, to)
        except Corrupt:
            kind = Kind.CORRUPT_FILE if is_there else Kind.MISSING_SEGMENT
            detail = (
                f"positions {after + 1} to {to} are detached and cannot be read, with what they have of "
                f"the seals of lane {LANE_NAMES[lane]}"
            )
            findings = [Finding(kind, LANE_NAMES[Lane.LANE_DOMAIN], number, "archive", detail)]
        else:
            seals |= some
        chain.findings += findings
    return seals


async def _seals_between(
    log: EventLog, lane: Lane.ValueType, after: int, to: int
) -> tuple[dict[int, Manifest], list[Finding]]:
    """Read the seals of a lane between two positions of the domain lane, and find those that are none.

    Raises:
        Corrupt: a segment that is needed is missing or damaged.
    """
    name = LANE_NAMES[lane]
    wanted = EventFilter(types=[SEAL_TYPE], streams=[seal_stream(name)])
    seals: dict[int, Manifest] = {}
    findings: list[Finding] = []
    while after < to:
        page = await log.read(
            Lane.LANE_DOMAIN, after_position=Position(after), to_position=Position(to), filter=wanted
        )
        for event in page.events:
            number = event.envelope.stream_version
            try:
                message = event.message
                if not isinstance(message, LogSegmentSealed) or message.number != number:
                    raise ValueError("it is not the seal of that number")
                seals[number] = Manifest.of_json(manifest_of(message).to_json())
            except (ValueError, LookupError, Corrupt) as error:
                place = (event.position, event.envelope.event_id)
                findings.append(Finding(Kind.OTHER_SEAL, name, number, "seal", str(error), *place))
        after = page.scanned_to
    return seals, findings


def _agree(stored: Manifest, seal: Manifest) -> bool:
    return (stored.segment_root, stored.key_id, stored.signature) == (
        seal.segment_root,
        seal.key_id,
        seal.signature,
    )


async def _find_strays(
    archive: Archive, lane: Lane.ValueType, known: Mapping[int, Sequence[SegmentName]], checker: _Checker
) -> None:
    """Find Parquet files that no manifest names, which a query over the folder would read all the same."""
    for key in await archive.store.list(f"{LANE_NAMES[lane]}/"):
        if not key.endswith(".parquet"):
            continue
        name = SegmentName.parse(key)
        if name is None:
            checker.find(Kind.UNKNOWN_SEGMENT, 0, f"{key} is no segment of this log")
        # A file after the newest segment is one that is being sealed now.
        elif name not in known.get(name.number, ()) and name.number <= max(known, default=0):
            checker.find(Kind.UNKNOWN_SEGMENT, name.number, f"{key} has no manifest")
