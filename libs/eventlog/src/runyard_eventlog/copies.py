"""Second half of a verification: the copies of a segment, compared with the root that was sealed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runyard_core.errors import Corrupt
from runyard_core.merkle import HASH_BYTES, leaf_hash, merkle_root
from runyard_eventlog.chain import Finding
from runyard_eventlog.difference import Difference, Kind, differences, in_order
from runyard_eventlog.manifest import LANES, Manifest
from runyard_eventlog.segment_file import SegmentColumns
from runyard_eventlog.stored_columns import StoredColumns
from runyard_eventlog.stored_event import COLUMNS, HEADER, StoredEvent, parse_canonical

FINDINGS_MAX = 50
"""Most events that are named of one copy of one segment."""


@dataclass(frozen=True, slots=True)
class Copies:
    """A segment as it is found in each place."""

    manifest: Manifest
    parquet: bytes | None
    """The archive's file; None when it is missing."""
    leaves: bytes | None
    """The archive's leaf hashes; None when they are missing."""
    database: Sequence[StoredColumns] | None
    """Its rows; None when it was not asked."""
    database_first: int
    """First position of the segment that the database still has; after the last when it has none."""

    @property
    def database_count(self) -> int:
        """Events that the database should have."""
        return 0 if self.database is None else self.manifest.last_position + 1 - self.database_first


def archived_count(copies: Copies, findings: Sequence[Finding]) -> int:
    """Count the events of the segment's file that were compared: none when it cannot be opened."""
    if copies.parquet is None:
        return 0
    if any(one.kind is Kind.CORRUPT_FILE for one in findings):
        try:
            SegmentColumns.of_parquet(copies.parquet)
        except Corrupt:
            return 0
    return copies.manifest.event_count


def compare(copies: Copies) -> list[Finding]:
    """Compare the copies of a segment with its root, and name the events that differ."""
    manifest, findings = copies.manifest, list[Finding]()
    columns = _columns(copies, findings)
    archived = [] if columns is None else columns.leaf_hashes(LANES[manifest.lane])
    is_stored = copies.leaves == b"".join(archived)
    sealed = _sealed(copies, archived, is_stored=is_stored)
    if copies.leaves is None:
        findings.append(_finding(manifest, Kind.MISSING_FILE, f"{manifest.name.leaves} is not there"))
    elif not (is_stored and sealed is archived) and copies.leaves != b"".join(sealed):
        detail = f"{manifest.name.leaves} does not give the root that was sealed"
        findings.append(_finding(manifest, Kind.CORRUPT_FILE, detail))
    if not sealed:
        detail = "no copy gives the root that was sealed: no event can be named"
        return [*findings, _finding(manifest, Kind.CHANGED, detail)]
    if columns is not None:
        findings += _of_archive(copies, columns, archived, sealed)
    offset = copies.database_first - manifest.first_position
    if copies.database is not None and not (archived == sealed and _is_same(copies, columns)):
        findings += _of_database(copies, columns, sealed[offset:])
    return findings


def _is_same(copies: Copies, columns: SegmentColumns | None) -> bool:
    """Say whether the database has the events of the file: the same bytes have the same hashes."""
    if columns is None or copies.database is None:
        return False
    begin = copies.database_first - copies.manifest.first_position
    return columns.canonical.are_rows(copies.database, begin)


def _contents(copies: Copies) -> list[bytes]:
    """Give the canonical bytes of the database's rows."""
    lane = LANES[copies.manifest.lane]
    return [content for rows in copies.database or () for content in rows.canonical(lane)]


def _columns(copies: Copies, findings: list[Finding]) -> SegmentColumns | None:
    manifest = copies.manifest
    if copies.parquet is None:
        findings.append(_finding(manifest, Kind.MISSING_FILE, f"{manifest.name.parquet} is not there"))
        return None
    try:
        return SegmentColumns.of_parquet(copies.parquet)
    except Corrupt as error:
        size = f"{len(copies.parquet)} of {manifest.parquet_bytes} bytes"
        detail = f"{manifest.name.parquet} ({size}): {error.message}"
        findings.append(_finding(manifest, Kind.CORRUPT_FILE, detail))
        return None


def _sealed(copies: Copies, archived: list[bytes], *, is_stored: bool) -> list[bytes]:
    """Find a copy of the leaf hashes that gives the root; empty when there is none.

    Args:
        copies: where to look.
        archived: those of the archive's events.
        is_stored: whether the archive's leaf hashes are these, too.
    """
    for leaves in [archived] if is_stored else [_split(copies.leaves or b""), archived]:
        if _is_sealed(copies.manifest, leaves):
            return leaves
    if copies.database and copies.database_first == copies.manifest.first_position:
        leaves = [leaf_hash(content) for content in _contents(copies)]
        if _is_sealed(copies.manifest, leaves):
            return leaves
    return []


def _is_sealed(manifest: Manifest, leaves: list[bytes]) -> bool:
    return len(leaves) == manifest.event_count and merkle_root(leaves).hex() == manifest.root


def _of_archive(
    copies: Copies, columns: SegmentColumns, archived: list[bytes], sealed: list[bytes]
) -> list[Finding]:
    manifest = copies.manifest
    if archived != sealed:
        first, last = min(columns.positions, default=0), max(columns.positions, default=0)
        if first > manifest.last_position or last < manifest.first_position:
            detail = f"{manifest.name.parquet} holds positions {first} to {last}"
            return [_finding(manifest, Kind.SWAPPED, detail)]
        events = columns.events()
        wrong = differences(sealed, manifest.first_position, events, LANES[manifest.lane], {})
        unordered = in_order(manifest.first_position, events)
        return _named(manifest, wrong or ([unordered] if unordered else []), "archive")
    if hashlib.sha256(copies.parquet or b"").hexdigest() != manifest.parquet_sha256:
        detail = f"{manifest.name.parquet} has other bytes than were sealed, but all its events are genuine"
        return [_finding(manifest, Kind.CORRUPT_FILE, detail)]
    said = (manifest.first_recorded_at, manifest.last_recorded_at)
    if said != tuple(at.isoformat(timespec="microseconds") for at in columns.times):
        return [_finding(manifest, Kind.BAD_MANIFEST, "its times are not those of its events")]
    return []


def _of_database(copies: Copies, columns: SegmentColumns | None, sealed: list[bytes]) -> list[Finding]:
    manifest = copies.manifest
    contents = _contents(copies)
    if [leaf_hash(content) for content in contents] == sealed:
        return []
    archived = {} if columns is None else {event.position: event for event in columns.events()}
    known = {position: str(event.event_id) for position, event in archived.items()}
    rows, unreadable = [], []
    for content in contents:
        try:
            rows.append(parse_canonical(content)[1])
        except Corrupt as error:
            unreadable.append(Difference(Kind.CHANGED, HEADER.unpack_from(content)[1], "", error.message))
    told = {one.position for one in unreadable}
    wrong = differences(sealed, copies.database_first, rows, LANES[manifest.lane], known)
    by_position = {row.position: row for row in rows}
    wrong = [_explained(one, by_position.get(one.position), archived.get(one.position)) for one in wrong]
    wrong = sorted(
        [*unreadable, *(one for one in wrong if one.position not in told)], key=lambda one: one.position
    )
    return _named(manifest, wrong, "database")


def _explained(wrong: Difference, row: StoredEvent | None, archived: StoredEvent | None) -> Difference:
    """Say in which columns a changed row differs from the archive's event."""
    if wrong.kind is not Kind.CHANGED or row is None or archived is None or row == archived:
        return wrong
    others = (name for name, here, there in zip(COLUMNS, row, archived, strict=True) if here != there)
    return replace(wrong, detail=f"differs from the archive in {', '.join(others)}")


def _named(manifest: Manifest, wrong: Sequence[Difference], where: str) -> list[Finding]:
    findings = [
        _finding(manifest, one.kind, one.detail, where, one.position, one.event_id)
        for one in wrong[:FINDINGS_MAX]
    ]
    if len(wrong) > FINDINGS_MAX:
        more = f"and {len(wrong) - FINDINGS_MAX} more events from position {wrong[FINDINGS_MAX].position} on"
        findings.append(_finding(manifest, Kind.CHANGED, more, where))
    return findings


def _finding(
    manifest: Manifest,
    kind: Kind,
    detail: str,
    where: str = "archive",
    position: int | None = None,
    event_id: str = "",
) -> Finding:
    return Finding(kind, manifest.lane, manifest.number, where, detail, position, event_id)


def _split(leaves: bytes) -> list[bytes]:
    return [leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES)]
