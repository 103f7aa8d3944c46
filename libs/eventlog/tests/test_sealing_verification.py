"""Whatever is done to the log or to the archive after sealing, verification names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard_contracts.ids import uuid7
from runyard_eventlog.archived_log import ArchivedEventLog
from runyard_eventlog.difference import Kind
from runyard_eventlog.manifest import SegmentName
from runyard_eventlog.segment_file import SegmentColumns
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_event import StoredEvent
from runyard_eventlog.verification import verify
from runyard_testkit.engines import run

from .sealed import SECOND, SIZE, changed_file, changed_rows, findings, flipped, flips, make_yard, named
from .stored import DOMAIN, TELEMETRY, Yard

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return run(make_yard(tmp_path_factory.mktemp("yard")))


async def test_what_nobody_touched_is_sound(yard: Yard) -> None:
    report = await verify(yard.archive(), [yard.key.public], log=yard.log, stored=yard.stored)
    assert report.findings == []
    by_lane = {one.lane: one for one in report.lanes}
    assert by_lane["domain"].sealed_to == yard.sealed_to[DOMAIN] == by_lane["domain"].archived_count
    assert by_lane["domain"].database_count == by_lane["domain"].archived_count
    text = "\n".join(report.lines())
    assert f"not sealed yet: {len(yard.stored.rows(DOMAIN)) - yard.sealed_to[DOMAIN]} events" in text
    assert "not proven: events after the newest segment" in text


@settings(max_examples=15, deadline=None)
@given(position=st.integers(1, 2 * SIZE), place=flips)
async def test_a_flipped_bit_of_a_row_names_segment_and_event(
    yard: Yard, position: int, place: tuple[int, int]
) -> None:
    row = yard.stored.rows(DOMAIN)[position - 1]
    # Any bit of what the log stores of it, except the position, which is where it is found.
    fields = [name for name in StoredEvent._fields if name not in ("position", "recorded_at")]
    name = fields[place[0] % len(fields)]
    value = getattr(row, name)
    match value:
        case int():
            other: Any = value ^ 1 << place[1]
        case UUID():
            other = UUID(bytes=flipped(value.bytes, place))
        case bytes():
            other = flipped(value, place)
        case str():
            other = flipped(value.encode(), (place[0], place[1] % 4)).decode()
        case _:
            other = UUID(int=place[0])
    with changed_rows(yard, {position: row._replace(**{name: other})}):
        (found,) = await findings(yard, lanes=[DOMAIN])
    assert (found.kind, found.segment, found.position, found.where) == (
        Kind.CHANGED,
        (position + SIZE - 1) // SIZE,
        position,
        "database",
    )
    if name != "event_id":
        assert found.event_id == str(row.event_id)


@given(position=st.integers(1, 2 * SIZE))
@settings(max_examples=8, deadline=None)
async def test_a_dropped_row_is_named_with_its_id(yard: Yard, position: int) -> None:
    row = yard.stored.rows(DOMAIN)[position - 1]
    with changed_rows(yard, {position: None}):
        (found,) = await findings(yard, lanes=[DOMAIN])
    assert (found.kind, found.segment, found.position) == (
        Kind.DROPPED,
        (position + SIZE - 1) // SIZE,
        position,
    )
    assert found.event_id == str(row.event_id)


@given(one=st.integers(1, 2 * SIZE), other=st.integers(1, 2 * SIZE))
@settings(max_examples=8, deadline=None)
async def test_swapped_rows_are_both_named(yard: Yard, one: int, other: int) -> None:
    if one == other:
        return
    rows = yard.stored.rows(DOMAIN)
    first, second = rows[one - 1], rows[other - 1]
    with changed_rows(yard, {one: second._replace(position=one), other: first._replace(position=other)}):
        found = await findings(yard, lanes=[DOMAIN])
    assert sorted((at.position, at.event_id) for at in found) == sorted(
        [(one, str(second.event_id)), (other, str(first.event_id))]
    )
    is_same_segment = (one - 1) // SIZE == (other - 1) // SIZE
    assert {at.kind for at in found} == {Kind.SWAPPED if is_same_segment else Kind.CHANGED}


async def test_a_row_put_in_between_is_named(yard: Yard) -> None:
    rows = yard.stored.rows(DOMAIN)
    stranger = rows[11]._replace(event_id=UUID(uuid7()))
    later: dict[int, StoredEvent | None] = {
        at + 1: rows[at - 1]._replace(position=at + 1) for at in range(12, 17)
    }
    with changed_rows(yard, {**later, 12: stranger}):
        found = await findings(yard, lanes=[DOMAIN])
    assert found[0].kind == Kind.ADDED
    assert (found[0].segment, found[0].position, found[0].event_id) == (2, 12, str(stranger.event_id))


async def test_a_row_taken_out_of_between_is_named(yard: Yard) -> None:
    rows = yard.stored.rows(DOMAIN)
    later: dict[int, StoredEvent | None] = {at: rows[at]._replace(position=at) for at in range(11, 17)}
    with changed_rows(yard, later):
        found = await findings(yard, lanes=[DOMAIN])
    assert (found[0].kind, found[0].segment, found[0].position) == (Kind.DROPPED, 2, 11)
    assert found[0].event_id == str(rows[10].event_id)


def rewritten(change: Callable[[list[StoredEvent]], list[StoredEvent]]) -> Callable[[bytes], bytes]:
    """Change the events of a Parquet file and write it anew."""
    return lambda content: SegmentColumns.of_events(
        change(SegmentColumns.of_parquet(content).events())
    ).to_parquet()


@given(
    index=st.integers(0, SIZE - 1),
    other=st.integers(0, SIZE - 1),
    what=st.sampled_from(["drop", "change", "swap", "add", "order"]),
)
@settings(max_examples=10, deadline=None)
async def test_a_rewritten_file_names_segment_and_event(
    yard: Yard, index: int, other: int, what: str
) -> None:
    def change(events: list[StoredEvent]) -> list[StoredEvent]:
        if what == "drop":
            del events[index]
        elif what == "change":
            events[index] = events[index]._replace(actor="user:mallory")
        elif what == "add":
            events.insert(other, events[index]._replace(event_id=UUID(int=7)))
        elif what == "swap":
            a, b = events[index], events[other]
            events[index], events[other] = b._replace(position=a.position), a._replace(position=b.position)
        else:
            events[index], events[other] = events[other], events[index]
        return events

    if index == other and what in ("swap", "order"):
        return
    with changed_file(yard, SECOND.parquet, rewritten(change)):
        found = named(await findings(yard, lanes=[DOMAIN]), "archive")
    position = SECOND.first_position + index
    kind = {
        "drop": Kind.DROPPED,
        "change": Kind.CHANGED,
        "add": Kind.ADDED,
        "swap": Kind.SWAPPED,
        "order": Kind.SWAPPED,
    }[what]
    assert {one[:2] for one in found} == {(kind, 2)}
    if what != "order":
        assert position in {one[2] for one in found}
    assert len(found) == (2 if what == "swap" else 1)


@given(place=flips)
async def test_a_flipped_bit_of_a_file_names_the_segment(yard: Yard, place: tuple[int, int]) -> None:
    with changed_file(yard, SECOND.parquet, lambda content: flipped(content, place)):
        found = await findings(yard, lanes=[DOMAIN])
    assert found
    assert {(one.lane, one.segment, one.where) for one in found} == {("domain", 2, "archive")}
    # Where the file can still be read, what differs is named; otherwise that it cannot be read.
    assert all(one.position is not None or one.kind == Kind.CORRUPT_FILE for one in found)


@given(length=st.integers(0, 10**9))
@settings(max_examples=8, deadline=None)
async def test_a_truncated_file_names_the_segment(yard: Yard, length: int) -> None:
    with changed_file(yard, SECOND.parquet, lambda content: content[: length % len(content)]):
        found = await findings(yard, lanes=[DOMAIN])
        report = await verify(yard.archive(), [yard.key.public], lanes=[DOMAIN])
    assert [(one.kind, one.segment) for one in found] == [(Kind.CORRUPT_FILE, 2)]
    assert SECOND.parquet in found[0].detail
    # Of a file that cannot be opened nothing was recomputed.
    assert report.lanes[0].archived_count == report.lanes[0].sealed_to - SIZE


@given(place=flips)
@settings(max_examples=8, deadline=None)
async def test_flipped_leaf_hashes_blame_no_event(yard: Yard, place: tuple[int, int]) -> None:
    with changed_file(yard, SECOND.leaves, lambda content: flipped(content, place)):
        found = await findings(yard, lanes=[DOMAIN])
    assert [(one.kind, one.segment, one.position) for one in found] == [(Kind.CORRUPT_FILE, 2, None)]


async def test_without_leaf_hashes_the_other_copy_tells_which_event(yard: Yard) -> None:
    def change(events: list[StoredEvent]) -> list[StoredEvent]:
        events[3] = events[3]._replace(type="runyard.run.other")
        return events

    with (
        changed_file(yard, SECOND.leaves, lambda _: None),
        changed_file(yard, SECOND.parquet, rewritten(change)),
    ):
        found = await findings(yard, lanes=[DOMAIN])
        assert named(found, "archive") == [(Kind.MISSING_FILE, 2, None), (Kind.CHANGED, 2, 12)]
        alone = await verify(yard.archive(), [yard.key.public], lanes=[DOMAIN])
        assert [one.detail for one in alone.findings][-1].startswith("no copy gives the root")


@given(place=flips)
@settings(max_examples=20, deadline=None)
async def test_a_flipped_bit_of_a_manifest_names_the_segment(yard: Yard, place: tuple[int, int]) -> None:
    with changed_file(yard, SECOND.manifest, lambda content: flipped(content, place)):
        genuine = (yard.folder / SECOND.manifest).read_bytes()
        found = await findings(yard, lanes=[DOMAIN])
    assert {one.segment for one in found} <= {2, 3}
    assert found or _means_the_same(genuine)


def _means_the_same(content: bytes) -> bool:
    """White space, and the file's size, which only helps to describe a truncated file."""
    found = json.loads(content)
    return len(found) == 15


async def test_a_missing_segment_is_named(yard: Yard) -> None:
    with (
        changed_file(yard, SECOND.parquet, lambda _: None),
        changed_file(yard, SECOND.leaves, lambda _: None),
        changed_file(yard, SECOND.manifest, lambda _: None),
    ):
        found = await findings(yard, lanes=[DOMAIN])
        kinds = [(one.kind, one.segment) for one in found]
        assert (Kind.MISSING_SEGMENT, 2) in kinds
        assert {segment for _, segment in kinds} == {2}
        alone = await verify(yard.archive(), [yard.key.public], lanes=[DOMAIN])
        assert (Kind.MISSING_SEGMENT, 2) in [(one.kind, one.segment) for one in alone.findings]


async def test_an_archive_without_its_end_is_noticed_by_the_log(yard: Yard) -> None:
    newest = (await yard.archive().names(DOMAIN))[-1]
    with (
        changed_file(yard, newest.parquet, lambda _: None),
        changed_file(yard, newest.leaves, lambda _: None),
        changed_file(yard, newest.manifest, lambda _: None),
    ):
        assert (Kind.MISSING_SEGMENT, newest.number) in [
            (one.kind, one.segment) for one in await findings(yard, lanes=[DOMAIN])
        ]


async def test_an_archive_that_somebody_else_signed_is_refused(yard: Yard, tmp_path: Path) -> None:
    forger = Yard(tmp_path, events_max=SIZE)
    forger.log, forger.stored = yard.log, yard.stored
    forger.key = SigningKey.load_or_create(tmp_path / "forger.key")
    report = await verify(yard.archive(), [forger.key.public], lanes=[DOMAIN])
    assert {one.kind for one in report.findings} == {Kind.FOREIGN_KEY}
    last = report.findings[-1].segment
    refused, *_, proven = text = list(report.lines())
    assert refused.startswith(f"FOREIGN KEY: lane domain segments 1 to {last} (archive) signed by key ")
    assert "next: repair nothing before a copy of database and archive is kept" in "\n".join(text)
    assert proven.startswith("not proven: ")

    def signed_anew(content: bytes) -> bytes:
        fields = json.loads(content)
        fields["signature"] = forger.key.sign(bytes.fromhex(fields["segment_root"])).hex()
        return json.dumps(fields).encode()

    with changed_file(yard, SECOND.manifest, signed_anew):
        kinds = [(one.kind, one.segment) for one in await findings(yard, lanes=[DOMAIN])]
    assert kinds == [(Kind.BAD_SIGNATURE, 2), (Kind.OTHER_SEAL, 2)]


async def test_files_in_each_others_place_are_named_once_each(yard: Yard) -> None:
    first, second = (await yard.archive().names(DOMAIN))[:2]
    one, other = [(yard.folder / name.parquet).read_bytes() for name in (first, second)]
    with (
        changed_file(yard, first.parquet, lambda _: other),
        changed_file(yard, second.parquet, lambda _: one),
    ):
        found = await findings(yard, lanes=[DOMAIN])
    assert named(found, "archive") == [(Kind.SWAPPED, 1, None), (Kind.SWAPPED, 2, None)]
    assert found[0].detail == f"{first.parquet} holds positions 9 to 16"


async def test_a_file_that_nobody_sealed_is_named(yard: Yard) -> None:
    stranger = yard.folder / SegmentName("domain", 1, 5, 6).parquet
    shutil.copy(yard.folder / SECOND.parquet, stranger)
    try:
        (found,) = await findings(yard, lanes=[DOMAIN])
    finally:
        stranger.unlink()
    assert (found.kind, found.segment) == (Kind.UNKNOWN_SEGMENT, 1)


async def test_detached_rows_are_checked_in_the_archive_alone(yard: Yard) -> None:
    yard.log.boundaries[DOMAIN] = 12
    try:
        report = await verify(yard.archive(), [yard.key.public], stored=yard.stored, lanes=[DOMAIN])
        assert report.is_sound
        assert report.lanes[0].database_count == yard.sealed_to[DOMAIN] - 11
        with changed_rows(yard, {13: None}):
            (found,) = await findings(yard, lanes=[DOMAIN])
            assert (found.kind, found.position) == (Kind.DROPPED, 13)
    finally:
        yard.log.boundaries[DOMAIN] = 1


@pytest.mark.parametrize("ending", [".parquet", ".json"])
async def test_what_is_damaged_of_detached_segments_is_named_and_the_rest_still_compared(
    tmp_path: Path, ending: str
) -> None:
    """The seals are events, too: those of a damaged segment are lost with it when the database let it go."""
    yard = await make_yard(tmp_path)
    await yard.fill(20)
    last = await yard.seal_all(DOMAIN)
    yard.log.boundaries[DOMAIN] = last - SIZE
    whole = ArchivedEventLog(yard.log, yard.stored, yard.archive())
    names = await yard.archive().names(DOMAIN)
    # The fourth has seals, the second none; both come before a change in the database.
    damaged = [names[1], names[3]]
    (yard.folder / damaged[0].parquet).write_bytes(b"")
    (yard.folder / f"{damaged[1]}{ending}").unlink()
    with changed_rows(yard, {last - 1: None}):
        report = await verify(yard.archive(), [yard.key.public], log=whole, stored=yard.stored)
    found = {(one.kind, one.lane, one.segment, one.position) for one in report.findings}
    gone = Kind.MISSING_SEGMENT if ending == ".json" else Kind.MISSING_FILE
    assert (Kind.CORRUPT_FILE, "domain", 2, None) in found
    assert (gone, "domain", 4, None) in found
    assert (Kind.DROPPED, "domain", names[-1].number, last - 1) in found
    assert {segment for _, _, segment, _ in found} == {2, 4, names[-1].number}
    (of_telemetry, *more) = (
        await verify(yard.archive(), [yard.key.public], log=whole, lanes=[TELEMETRY])
    ).findings
    assert "seals of lane telemetry" in of_telemetry.detail
    assert [one.segment for one in (of_telemetry, *more)] == [2, 4]


@pytest.mark.parametrize("number", [0, 99_999_999, 10**30])
async def test_segments_of_numbers_that_no_segment_has_are_named_and_not_waited_for(
    yard: Yard, number: int
) -> None:
    stray = SegmentName("domain", number, 9, 16)
    manifest = json.loads((yard.folder / SECOND.manifest).read_bytes())
    contents = {
        stray.parquet: (yard.folder / SECOND.parquet).read_bytes(),
        stray.manifest: json.dumps({**manifest, "number": number}).encode(),
    }
    try:
        for key, content in contents.items():
            (yard.folder / key).write_bytes(content)
        found = await findings(yard)
    finally:
        for key in contents:
            (yard.folder / key).unlink()
    assert {(one.kind, one.segment) for one in found} == {(Kind.UNKNOWN_SEGMENT, number)}
