"""Sealing: when a segment ends, what it holds, and that a kill at any step costs nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.events_pb2 import LogSegmentSealed
from runyard_core.errors import Conflict, Corrupt, InvalidInput, Unavailable
from runyard_core.merkle import leaf_hash, merkle_root
from runyard_eventlog.archive_store import FolderStore
from runyard_eventlog.manifest import SegmentName
from runyard_eventlog.port import AppendCommand
from runyard_eventlog.sealing_watch import SealingWatch
from runyard_eventlog.segment_file import SegmentColumns
from runyard_eventlog.segment_seals import manifest_of, seal_of
from runyard_eventlog.signing import PublicKey, SigningKey
from runyard_eventlog.stored_event import canonical_bytes, parse_canonical
from runyard_eventlog.verification import verify

from .stored import DOMAIN, LANES, TELEMETRY, Yard

pytestmark = pytest.mark.system


class Killed(Exception):
    """Stands for a kill of the process."""


class DyingStore(FolderStore):
    """Dies before or after one of its writes."""

    def __init__(self, folder: Path, writes: int, after: bool) -> None:
        super().__init__(folder)
        self._writes, self._after = writes, after

    async def put(self, key: str, content: bytes) -> None:
        self._writes -= 1
        if self._writes < 0 and not self._after:
            raise Killed
        await super().put(key, content)
        if self._writes < 0:
            raise Killed


async def seals(yard: Yard) -> list[LogSegmentSealed]:
    page = await yard.log.read(DOMAIN)
    return [one.message for one in page.events if isinstance(one.message, LogSegmentSealed)]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def watching(yard: Yard) -> SealingWatch:
    return SealingWatch(
        yard.log, yard.stored, yard.sealer().seal_due, settings=yard.settings, clock=yard.clock
    )


async def test_a_full_segment_is_sealed_and_an_event_says_so(tmp_path: Path) -> None:
    yard = Yard(tmp_path, events_max=10)
    await yard.fill(9)
    assert await yard.sealer().seal_next(DOMAIN) is None
    await yard.fill(3)
    manifest = await yard.sealer().seal_next(DOMAIN)
    assert manifest is not None
    assert (manifest.first_position, manifest.last_position, manifest.number) == (1, 10, 1)
    (seal,) = await seals(yard)
    assert manifest_of(seal) == manifest
    assert seal_of(manifest) == seal
    (last,) = (await yard.log.read(DOMAIN, descending=True, limit=1)).events
    assert (last.envelope.stream, last.envelope.stream_version) == ("log-domain", 1)
    name = "domain/00000001-000000000001-000000000010"
    assert set(files(yard.folder)) == {
        *(f"{name}{ending}" for ending in (".parquet", ".leaves", ".json")),
        f"keys/{yard.key.public.key_id}.pem",
    }


async def test_an_old_tail_is_sealed_although_it_is_not_full(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    await yard.fill(3)
    yard.clock.advance(timedelta(minutes=9, seconds=57))
    assert await yard.sealer().seal_next(DOMAIN) is None
    yard.clock.advance(timedelta(seconds=1))
    manifest = await yard.sealer().seal_next(DOMAIN)
    assert manifest is not None
    assert manifest.last_position == 3


async def test_a_log_at_rest_is_not_sealed_for_ever(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    await yard.fill(3)
    for _ in range(5):
        yard.clock.advance(timedelta(hours=1))
        await yard.seal_all()
    assert len(await seals(yard)) == 1


async def test_a_segment_ends_where_its_bytes_are_enough(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.settings = type(yard.settings)(events_max=100, bytes_max=1_000)
    await yard.fill(12, TELEMETRY)
    await yard.seal_all(TELEMETRY)
    names = await yard.archive().names(TELEMETRY)
    assert len(names) > 1
    for name in names:
        rows = await yard.stored.read(TELEMETRY, name.first_position, name.last_position)
        assert len(rows) == 1 or sum(len(one.payload) for one in rows) <= 1_000
    yard.settings = type(yard.settings)(events_max=100, bytes_max=1)
    await yard.fill(2, TELEMETRY)
    following = await yard.sealer().seal_next(TELEMETRY)
    assert following is not None
    assert following.event_count == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("writes", range(4), ids=["key", "parquet", "leaves", "manifest"])
async def test_a_kill_at_any_write_leaves_the_same_archive(tmp_path: Path, writes: int, after: bool) -> None:
    yard = Yard(tmp_path)
    await yard.fill(7)
    yard.clock.advance(timedelta(hours=1))
    sealer = yard.sealer()
    sealer._store = DyingStore(yard.folder, writes, after)
    with pytest.raises(Killed):
        await sealer.seal_next(DOMAIN)
    begun = files(yard.folder)
    # The log grows meanwhile; what was begun ends where it was to end.
    await yard.fill(2)
    manifest = await yard.sealer().seal_next(DOMAIN)
    assert manifest is not None
    if any(key.endswith(".parquet") for key in begun):
        assert manifest.last_position == 7
    ended = files(yard.folder)
    assert begun.items() <= ended.items()
    assert len(ended) == 4
    assert [seal.number for seal in await seals(yard)] == [1]
    assert (await verify(yard.archive(), [yard.key.public], log=yard.log, stored=yard.stored)).is_sound


@pytest.mark.parametrize("is_appended", [False, True])
async def test_a_kill_around_the_append_seals_once(tmp_path: Path, is_appended: bool) -> None:
    yard = Yard(tmp_path)
    await yard.fill(12)
    sealer = yard.sealer()

    async def dying(command: AppendCommand) -> None:
        if is_appended:
            await yard.log.append(command)
        raise Killed

    sealer._log.append = dying  # type: ignore[method-assign, assignment]
    with pytest.raises(Killed):
        await sealer.seal_next(DOMAIN)
    before = files(yard.folder)
    await yard.seal_all()
    assert files(yard.folder) == before
    assert [seal.number for seal in await seals(yard)] == [1]


async def test_the_same_events_give_the_same_bytes(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    await yard.fill(9)
    rows = yard.stored.rows(DOMAIN)
    assert SegmentColumns.of_events(rows).to_parquet() == SegmentColumns.of_events(rows).to_parquet()


@pytest.mark.parametrize("lane", LANES, ids=["domain", "telemetry"])
async def test_a_file_gives_back_every_row_and_leaf(tmp_path: Path, lane: Lane.ValueType) -> None:
    yard = Yard(tmp_path)
    await yard.fill(9)
    await yard.fill(9, TELEMETRY)
    rows = yard.stored.rows(lane)
    columns = SegmentColumns.of_parquet(SegmentColumns.of_events(rows).to_parquet())
    assert columns.events() == rows
    stored = await yard.stored.columns(lane, 1, 100)
    assert [content for some in stored for content in some.canonical(lane)] == [
        canonical_bytes(row, lane) for row in rows
    ]
    assert columns.canonical.are_rows(stored, 0)
    assert columns.leaf_hashes(lane) == [leaf_hash(canonical_bytes(row, lane)) for row in rows]
    assert columns.events([2, 5]) == [rows[2], rows[5]]
    for row in rows:
        assert parse_canonical(canonical_bytes(row, lane)) == (lane, row)


async def test_segments_are_chained(tmp_path: Path) -> None:
    yard = Yard(tmp_path, events_max=4)
    await yard.fill(9)
    await yard.seal_all()
    first, second, *_ = await seals(yard)
    assert first.previous_segment_root == "0" * 64
    assert second.previous_segment_root == first.segment_root
    leaves = files(yard.folder)[SegmentName("domain", 1, 1, 4).leaves]
    assert merkle_root([leaves[at : at + 32] for at in range(0, 128, 32)]).hex() == first.root


async def test_one_sealer_at_a_time(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    await yard.fill(20)
    yard.stored.is_taken = True
    assert await yard.sealer().seal_next(DOMAIN) is None


async def test_a_seal_that_somebody_else_made_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    await yard.fill(20)
    sealer = yard.sealer()
    manifest = await sealer.seal_next(DOMAIN)
    assert manifest is not None
    with pytest.raises(Conflict):
        await sealer._append(replace(manifest, segment_root="ab" * 32))


async def test_a_log_restored_to_an_earlier_time_stops_sealing(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    await yard.fill(20)
    await yard.seal_all()
    restored = Yard(tmp_path)
    await restored.fill(5)
    with pytest.raises(Corrupt, match="restored"):
        await restored.sealer().seal_next(DOMAIN)
    await restored.fill(20)
    with pytest.raises(Corrupt, match="other events"):
        await restored.sealer().seal_next(DOMAIN)
    watch = watching(restored)
    await watch.look()
    assert DOMAIN in watch.stopped
    assert await seals(restored) == []


async def test_sealing_goes_on_once_what_the_former_log_sealed_is_moved_away(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    await yard.fill(20)
    await yard.seal_all()
    restored = Yard(tmp_path)
    await restored.fill(20)
    for path in (restored.folder / "domain").iterdir():
        path.unlink()
    await restored.seal_all()
    report = await verify(restored.archive(), [restored.key.public], log=restored.log, stored=restored.stored)
    assert (report.is_sound, report.event_count) == (True, 20)


async def test_a_lost_row_is_never_sealed(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    await yard.fill(12)
    yard.stored.changed[DOMAIN, 4] = None
    with pytest.raises(Corrupt, match=r"lacks positions.*4"):
        await yard.sealer().seal_next(DOMAIN)


async def test_an_absent_archive_is_waited_for(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    await yard.fill(12)
    yard.folder.write_text("a file where the folder should be")
    with pytest.raises(Unavailable):
        await yard.sealer().seal_next(DOMAIN)
    watch = watching(yard)
    await watch.look()
    assert not watch.stopped
    yard.folder.unlink()
    await watch.look()
    assert len(await seals(yard)) == 1


async def test_nobody_is_asked_to_seal_before_it_is_due(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    asked: list[int] = []

    async def seal(lane: Lane.ValueType) -> None:
        asked.append(lane)

    watch = SealingWatch(yard.log, yard.stored, seal, settings=yard.settings, clock=yard.clock)
    await yard.fill(9)
    await watch.look()
    assert asked == []
    await yard.fill(1)
    await yard.fill(1, TELEMETRY)
    await watch.look()
    assert asked == [DOMAIN]
    yard.clock.advance(timedelta(minutes=10))
    await watch.look()
    assert asked == [DOMAIN, DOMAIN, TELEMETRY]


def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "segment.key"
    key = SigningKey.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load_or_create(path).public.key_id == key.public.key_id
    published = PublicKey.load(tmp_path / "keys" / "segment.key.pub")
    assert published.key_id == key.public.key_id
    assert published.has_signed(b"r" * 32, key.sign(b"r" * 32))
    assert not published.has_signed(b"s" * 32, key.sign(b"r" * 32))
    path.chmod(0o640)
    with pytest.raises(InvalidInput, match="0640"):
        SigningKey.load_or_create(path)


def test_another_file_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "segment.key"
    path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(InvalidInput, match="not a private key"):
        SigningKey.load_or_create(path)
    for content in (
        b"",
        b"\xff\x00",
        path.read_bytes(),
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ):
        with pytest.raises(InvalidInput, match="not a public key"):
            PublicKey.of_pem(content)
    with pytest.raises(InvalidInput, match="cannot read"):
        PublicKey.load(tmp_path / "none")


def test_only_a_segment_name_is_parsed() -> None:
    name = SegmentName("telemetry", 12, 100, 250)
    assert SegmentName.parse(name.parquet) == name
    for key in ("keys/ab.pem", "domain/1-2-3.json", "other/00000001-000000000001-000000000002.json", ""):
        assert SegmentName.parse(key) is None
