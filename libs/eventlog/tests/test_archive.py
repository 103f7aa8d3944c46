"""A log whose old part is in the archive answers as if it were whole, wherever it is cut."""

from __future__ import annotations

import itertools
import pickle
from datetime import UTC, timedelta
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import EventId, Position, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Corrupt, InvalidInput, Rejected
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import FolderStore, S3Place, S3Store, open_store
from runyard_eventlog.archived_log import ArchivedEventLog
from runyard_eventlog.port import EVERYTHING, EventFilter, Page
from runyard_testkit.engines import run

from .stored import DOMAIN, LANES, TELEMETRY, HotLog, Yard, facts, stream_of

pytestmark = pytest.mark.system

PAGE_BYTES = 1_000
FILTERS = [
    EVERYTHING,
    EventFilter(types=["runyard.run."]),
    EventFilter(types=["runyard.run.status_detail_set", "runyard.log.chunk_recorded"], actor="user:alice"),
    EventFilter(streams=["run-s0", "telemetry-s1"]),
    EventFilter(categories=["log"]),
    EventFilter(correlation_id="request-2"),
    EventFilter(correlation_id="nobody"),
]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """Sealed segments of 6 events in both lanes, and a tail that is not sealed."""
    return run(make_yard(tmp_path_factory.mktemp("yard")))


async def make_yard(folder: Path) -> Yard:
    made = Yard(folder, events_max=6)
    await made.fill(20)
    await made.fill(14, TELEMETRY)
    for lane in reversed(LANES):
        made.sealed_to[lane] = await made.seal_all(lane)
    await made.fill(3)
    assert {name.number for name in await made.archive().names(DOMAIN)} == {1, 2, 3, 4}
    return made


def archived(yard: Yard) -> ArchivedEventLog:
    return ArchivedEventLog(yard.log, yard.stored, yard.archive())


def cut(yard: Yard, lane: Lane.ValueType, boundary: int) -> None:
    yard.log.boundaries = {DOMAIN: 1, TELEMETRY: 1, lane: boundary}


def same(found: Page, wanted: Page) -> bool:
    return (facts(found.events), found.scanned_to) == (facts(wanted.events), wanted.scanned_to)


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
async def test_no_read_notices_where_the_archive_ends(yard: Yard, descending: bool) -> None:
    ranges = [(0, None), (0, 7), (5, 13), (6, 12)]
    log = archived(yard)
    for lane, (limit, wanted), (after, to) in zip(
        itertools.cycle(LANES),
        itertools.product((1, 4, 1_000), FILTERS),
        itertools.cycle(ranges),
        strict=False,
    ):
        options = {
            "after_position": Position(after),
            "to_position": None if to is None else Position(to),
            "filter": wanted,
            "limit": limit,
            "descending": descending,
        }
        cut(yard, lane, 1)
        whole = await yard.log.read(lane, **options)  # type: ignore[arg-type]  # passes them on as they are
        for boundary in range(1, yard.sealed_to[lane] + 2):
            cut(yard, lane, boundary)
            log._boundaries.clear()
            found = await log.read(lane, **options)  # type: ignore[arg-type]  # passes them on as they are
            assert same(found, whole), (boundary, options)


@pytest.mark.parametrize(
    ("after", "to", "limit"), [(0, None, 100), (1, None, 100), (3, None, 2), (0, 9, 100)]
)
async def test_no_stream_notices_where_the_archive_ends(
    yard: Yard, after: int, to: Position | None, limit: int
) -> None:
    log = archived(yard)
    for lane, number in itertools.product(LANES, (0, 2, 9)):
        stream = stream_of(lane, number)
        cut(yard, lane, 1)
        whole = facts(await yard.log.read_stream(stream, after_version=after, to_position=to, limit=limit))
        for boundary in range(1, yard.sealed_to[lane] + 2):
            cut(yard, lane, boundary)
            found = await log.read_stream(stream, after_version=after, to_position=to, limit=limit)
            assert facts(found) == whole, (boundary, stream)


async def test_times_and_ids_are_found_on_both_sides(yard: Yard) -> None:
    cut(yard, DOMAIN, 1)
    events = (await yard.log.read(DOMAIN)).events
    telemetry = (await yard.log.read(TELEMETRY)).events
    times = [event.envelope.recorded_at.ToDatetime(yard.clock.now().tzinfo) for event in events]
    times = [times[0] - timedelta(days=1), *times, times[-1] + timedelta(days=1)]
    times += [time + timedelta(milliseconds=500) for time in times]
    wanted = [await yard.log.position_at(time) for time in times]
    log = archived(yard)
    for boundary in range(1, 20, 2):
        cut(yard, DOMAIN, boundary)
        assert [await log.position_at(time) for time in times] == wanted
        for event in (*events, *telemetry):
            found = await log.find(EventId(event.envelope.event_id))
            assert found is not None
            assert facts([found]) == facts([event])
        assert await log.find(EventId(uuid7())) is None


@settings(max_examples=8, deadline=None)
@given(data=st.data())
async def test_a_walk_in_pages_gives_every_event_once_while_partitions_are_detached(
    yard: Yard, data: st.DataObject
) -> None:
    cut(yard, DOMAIN, 1)
    whole = facts((await yard.log.read(DOMAIN)).events)
    last = (await yard.archive().names(DOMAIN))[-1].last_position
    log, after = archived(yard), Position(0)
    walked: list[RecordedEvent] = []
    while True:
        page = await log.read(DOMAIN, after_position=after, limit=data.draw(st.integers(1, 9)))
        if not page.events:
            break
        walked += page.events
        after = page.scanned_to
        yard.log.boundaries[DOMAIN] = data.draw(st.integers(yard.log.boundaries[DOMAIN], last + 1))
    assert facts(walked) == whole


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
async def test_pages_that_are_full_by_bytes_follow_each_other_over_the_boundary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descending: bool
) -> None:
    yard = Yard(tmp_path, events_max=6)
    await yard.fill(16)
    await yard.seal_all()
    whole = facts((await yard.log.read(DOMAIN, descending=descending)).events)
    sizes = {one.position: len(one.payload) for one in await yard.stored.read(DOMAIN, 1, len(whole))}
    yard.log.boundaries[DOMAIN] = 13
    for module in ("archive_reads", "archived_log", "memory"):
        monkeypatch.setattr(f"runyard_eventlog.{module}.PAGE_BYTES_MAX", PAGE_BYTES)
    log = archived(yard)
    found: list[RecordedEvent] = []
    low, high, pages = Position(0), Position(len(whole)), 0
    while low < high:
        page = await log.read(DOMAIN, after_position=low, to_position=high, descending=descending)
        found += page.events
        assert sum(sizes[event.position] for event in page.events) <= PAGE_BYTES
        assert page.is_full or len(found) == len(whole)
        low, high = (low, Position(page.scanned_to - 1)) if descending else (page.scanned_to, high)
        pages += 1
    assert facts(found) == whole
    assert pages > 3


class DetachingLog(HotLog):
    """Loses a partition just before it reads, after the reader has looked where the boundary is."""

    async def read(self, lane, **options):  # type: ignore[no-untyped-def]  # passes them on
        self.boundaries[DOMAIN] = max(self.boundaries[DOMAIN], 13)
        return await super().read(lane, **options)


@pytest.mark.parametrize("wanted", [EVERYTHING, EventFilter(categories=["run"])], ids=["all", "some"])
@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
async def test_a_partition_that_goes_away_during_a_read_is_read_from_the_archive(
    tmp_path: Path, descending: bool, wanted: EventFilter
) -> None:
    yard = Yard(tmp_path, events_max=6)
    await yard.fill(16)
    await yard.seal_all()
    whole = facts((await yard.log.read(DOMAIN, descending=descending, filter=wanted)).events)
    yard.log.__class__ = DetachingLog
    found = await archived(yard).read(DOMAIN, descending=descending, filter=wanted)
    assert facts(found.events) == whole


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
async def test_a_page_says_itself_whether_something_was_detached(tmp_path: Path, descending: bool) -> None:
    yard = Yard(tmp_path, events_max=6)
    await yard.fill(16)
    log = archived(yard)
    options = {"filter": EventFilter(categories=["run"]), "limit": 3, "descending": descending}
    await log.read(DOMAIN, **options)  # type: ignore[arg-type]  # passes them on as they are
    looked = mock.AsyncMock(wraps=yard.stored.first_position)
    with mock.patch.object(yard.stored, "first_position", looked):
        await log.read(DOMAIN, **options)  # type: ignore[arg-type]  # passes them on as they are
    assert looked.await_count == 0


async def test_a_missing_or_damaged_segment_is_told_and_never_skipped(tmp_path: Path) -> None:
    yard = Yard(tmp_path, events_max=6)
    await yard.fill(16)
    await yard.seal_all()
    yard.log.boundaries[DOMAIN] = 13
    second = (await yard.archive().names(DOMAIN))[1]
    path = yard.folder / second.parquet
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(Corrupt, match=r"00000002.*is not the file that was sealed"):
        await archived(yard).read(DOMAIN)
    path.unlink()
    with pytest.raises(Corrupt, match=r"no domain/00000002.*parquet"):
        await archived(yard).read(DOMAIN)
    (yard.folder / second.manifest).unlink()
    with pytest.raises(Corrupt, match="position 7 of lane domain is neither"):
        await archived(yard).read(DOMAIN)
    path.write_bytes(content)


async def test_few_segments_stay_in_memory(tmp_path: Path) -> None:
    yard = Yard(tmp_path, events_max=2)
    await yard.fill(20)
    sealed_to = await yard.seal_all()
    yard.log.boundaries[DOMAIN] = sealed_to + 1
    archive = Archive(yard.store)
    page = await ArchivedEventLog(yard.log, yard.stored, archive).read(DOMAIN)
    assert len(page.events) >= 20
    assert len(archive._recent) == 8


async def test_without_an_archive_what_was_detached_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    yard = Yard(tmp_path, events_max=6)
    await yard.fill(16)
    log = ArchivedEventLog(yard.log, yard.stored, None)
    whole = facts((await log.read(DOMAIN)).events)
    events = (await log.read(DOMAIN)).events
    yard.log.boundaries[DOMAIN] = 7
    assert facts((await log.read(DOMAIN, after_position=Position(6))).events) == whole[6:]
    assert facts((await log.read(DOMAIN, descending=True, limit=10)).events) == whole[:5:-1]
    assert await log.find(EventId(events[8].envelope.event_id)) is not None
    for refused in (
        log.read(DOMAIN),
        log.read(DOMAIN, after_position=Position(5), limit=1),
        log.read(DOMAIN, descending=True, limit=11),
        log.read_stream(stream_of(DOMAIN, 0)),
        log.find(EventId(events[2].envelope.event_id)),
        log.position_at(events[2].envelope.recorded_at.ToDatetime(UTC)),
    ):
        with pytest.raises(Rejected, match="RUNYARD_ARCHIVE_URL") as refusal:
            await refused
        assert refusal.value.code == "ARCHIVE_NOT_CONFIGURED"


def test_an_archive_has_an_address(tmp_path: Path) -> None:
    place = S3Place("http://127.0.0.1:9", "eu-1", "bucket", "key", "se/cr:et@", prefix="log/")
    store = open_store(place.url)
    assert isinstance(store, S3Store)
    assert store.place == place
    elsewhere = pickle.loads(pickle.dumps(store))
    assert elsewhere.place == place
    elsewhere.close()
    store.close()
    assert isinstance(open_store(str(tmp_path)), FolderStore)
    for wrong in (
        "s3+http://host/bucket",
        "s3+http://key@host/bucket",
        "s3+http://key:secret@/bucket",
        "s3+http://key:secret@host",
        "s3+http://key:secret@host:port/bucket",
        "ftp://key:secret@host/bucket",
        "s3+http://key:secret@host/b",
        "s3+http://key:secret@host/-log",
    ):
        with pytest.raises(InvalidInput) as refusal:
            open_store(wrong)
        assert "secret@" not in refusal.value.message
