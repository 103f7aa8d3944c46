"""A log and its sealed segments, and what changes them for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

from runyard_eventlog.chain import Finding
from runyard_eventlog.difference import Kind
from runyard_eventlog.manifest import SegmentName
from runyard_eventlog.stored_event import StoredEvent
from runyard_eventlog.verification import verify

from .stored import DOMAIN, LANES, TELEMETRY, Yard

SIZE = 8
SECOND = SegmentName("domain", 2, 9, 16)

flips = st.tuples(st.integers(0, 10**9), st.integers(0, 7))


def flipped(content: bytes, place: tuple[int, int]) -> bytes:
    at, bit = place[0] % len(content), place[1]
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


async def make_yard(folder: Path) -> Yard:
    made = Yard(folder, events_max=SIZE)
    await made.fill(26)
    await made.fill(10, TELEMETRY)
    for lane in reversed(LANES):
        made.sealed_to[lane] = await made.seal_all(lane)
    await made.fill(2)
    return made


async def findings(yard: Yard, **options: object) -> list[Finding]:
    report = await verify(
        yard.archive(),
        [yard.key.public],
        log=yard.log,
        stored=yard.stored,
        **options,  # type: ignore[arg-type]
    )
    assert report.is_sound == (not report.findings)
    return report.findings


@contextmanager
def changed_file(yard: Yard, key: str, change: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """Change a file of the archive for a while; None removes it."""
    path = yard.folder / key
    genuine = path.read_bytes()
    content = change(genuine)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(genuine)


@contextmanager
def changed_rows(yard: Yard, rows: dict[int, StoredEvent | None]) -> Iterator[None]:
    """Change rows of the domain lane of the database for a while."""
    yard.stored.changed = {(DOMAIN, position): row for position, row in rows.items()}
    try:
        yield
    finally:
        yard.stored.changed = {}


def named(found: list[Finding], where: str) -> list[tuple[Kind, int, int | None]]:
    return [(one.kind, one.segment, one.position) for one in found if one.where == where]
