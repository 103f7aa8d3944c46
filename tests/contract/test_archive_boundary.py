"""Sealing, verifying, detaching and reading on, with a real database and a real object store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from runyard_contracts.ids import EventId, Position
from runyard_core.errors import Rejected
from runyard_eventlog import verification
from runyard_eventlog.archive_store import S3Place, open_store
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.auditor import audit
from runyard_eventlog.detaching import attached_before
from runyard_eventlog.difference import Kind
from runyard_eventlog.port import EventFilter
from runyard_eventlog.proof import check_proof
from runyard_eventlog.sealing_watch import SealingWatch
from runyard_eventlog.segment_file import SegmentColumns
from runyard_eventlog.segment_seals import SealingSettings
from runyard_eventlog.stored_event import canonical_bytes
from runyard_eventlog.subscriber import follow
from runyard_eventlog.verification import prove_event, verify
from runyard_testkit import Bucket, Bus, Database
from tests.contract.archive_yard import SEGMENT, ArchiveYard, fill_domain, fill_telemetry, opened
from tests.contract.events import DOMAIN, TELEMETRY
from tests.contract.mirrors import mirrored, relaying
from tests.contract.test_projector import projected

pytestmark = pytest.mark.engines


@pytest.fixture
async def yard(database: Database, tmp_path: Path) -> AsyncIterator[ArchiveYard]:
    async with opened(database, tmp_path) as made:
        yield made


async def test_the_database_gives_the_bytes_that_the_file_gives(yard: ArchiveYard) -> None:
    await fill_domain(yard, 12)
    await fill_telemetry(yard, 5)
    for lane in (DOMAIN, TELEMETRY):
        rows = await yard.stored.read(lane, 1, 12)
        assert rows
        stored = await yard.stored.columns(lane, 1, 12)
        assert [content for some in stored for content in some.canonical(lane)] == [
            canonical_bytes(row, lane) for row in rows
        ]
        assert SegmentColumns.of_events(rows).canonical.are_rows(stored, 0)


async def test_what_is_sealed_is_sound_and_what_an_administrator_changes_is_named(
    yard: ArchiveYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_domain(yard, 30)
    await fill_telemetry(yard, 15)
    await yard.seal()
    await yard.seal(TELEMETRY)
    report = await verify(yard.archive, [yard.key.public], log=yard.hot, stored=yard.stored)
    assert report.findings == []
    assert {one.lane: one.database_count for one in report.lanes} == {"domain": 28, "telemetry": 14}
    (victim,) = await yard.stored.read(DOMAIN, 11, 11)
    async with yard.admin.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute("update log.domain_event set actor = 'user:mallory' where position = 11")
        await connection.execute("delete from log.domain_event where position = 17")
    report = await verify(yard.archive, [yard.key.public], log=yard.hot, stored=yard.stored)
    assert [(one.kind, one.segment, one.position, one.where) for one in report.findings] == [
        (Kind.CHANGED, 2, 11, "database"),
        (Kind.DROPPED, 3, 17, "database"),
    ]
    assert report.findings[0].event_id == str(victim.event_id)
    monkeypatch.setattr(verification, "EVENTS_FOR_PROCESSES", 1)
    again = await verify(
        yard.archive,
        [yard.key.public],
        log=yard.hot,
        stored=yard.stored,
        process_count=2,
        database_url=yard.database.url("reader"),
    )
    assert again.findings == report.findings
    with pytest.raises(Rejected, match="not sound"):
        await yard.detach()


async def test_only_sealed_partitions_are_detached_and_never_the_head(yard: ArchiveYard) -> None:
    await fill_domain(yard, 17)
    await yard.seal()
    assert await attached_before(yard.admin, DOMAIN, 10**9) == []
    await fill_domain(yard, 2)
    with pytest.raises(Rejected, match="verified only to 14"):
        await yard.detach()
    await fill_domain(yard, 40)
    await yard.seal()
    for low in (1, 21, 41):
        assert await yard.detach() == f"domain_event_{low:012d}"
    assert 60 < (await yard.hot.head()).domain_position <= 80
    assert await attached_before(yard.admin, DOMAIN, 10**9) == []
    assert await yard.stored.first_position(DOMAIN) == 61
    async with yard.admin.acquire() as connection:
        with pytest.raises(asyncpg.PostgresError, match="holds the head"):
            await connection.fetchval("select log.detach_oldest_partition(1::smallint, 1000)")


@pytest.mark.parametrize("role", ["lineage", "scheduler", "relay", "reader"])
async def test_no_service_may_detach(yard: ArchiveYard, role: str) -> None:
    async with yard.database.connected(role) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval("select log.detach_oldest_partition(1::smallint, 100)")


async def test_nobody_notices_that_partitions_were_detached(yard: ArchiveYard) -> None:
    for domain_count, telemetry_count in ((35, 25), (35, 20)):
        await fill_domain(yard, domain_count)
        await fill_telemetry(yard, telemetry_count)
    await yard.seal()
    await yard.seal(TELEMETRY)
    draw = random.Random(7)
    before = {}
    for lane in (DOMAIN, TELEMETRY):
        for after in range(0, 64, 3):
            options = {
                "after_position": Position(after),
                "to_position": draw.choice([None, Position(after + 9)]),
                "limit": draw.choice([1, 5, 500]),
                "descending": draw.random() < 0.5,
                "filter": draw.choice([EventFilter(), EventFilter(categories=["run"])]),
            }
            page = await yard.hot.read(lane, **options)  # type: ignore[arg-type]  # passes them on as they are
            before[lane, after] = (options, [event.envelope for event in page.events], page.scanned_to)
    events = (await yard.hot.read(DOMAIN)).events
    streams = sorted({event.envelope.stream for event in events})
    histories = {stream: await yard.hot.read_stream(stream) for stream in streams}  # type: ignore[arg-type]  # names
    times = [event.envelope.recorded_at.ToDatetime(UTC) for event in events]
    times += [times[0] - timedelta(seconds=1), datetime.now(UTC)]
    positions = [await yard.hot.position_at(time) for time in times]
    whole = yard.whole

    for lane in (DOMAIN, DOMAIN, TELEMETRY, DOMAIN):
        await yard.detach(lane)
        for (of, _), (options, envelopes, scanned_to) in before.items():
            page = await whole.read(of, **options)  # type: ignore[arg-type]  # passes them on as they are
            assert [event.envelope for event in page.events] == envelopes, options
            assert page.scanned_to == scanned_to, options
        for stream, history in histories.items():
            found = await whole.read_stream(stream)  # type: ignore[arg-type]  # a name
            assert [event.envelope for event in found] == [event.envelope for event in history]
        assert [await whole.position_at(time) for time in times] == positions
        for event in events[::7]:
            again = await whole.find(EventId(event.envelope.event_id))
            assert again is not None
            assert again.envelope == event.envelope
    report = await verify(yard.archive, [yard.key.public], log=whole, stored=yard.stored)
    assert report.findings == []
    # The log goes on: appends take the next position, and sealing takes the next number.
    await fill_domain(yard, 10)
    await yard.seal()
    assert (await verify(yard.archive, [yard.key.public], log=whole, stored=yard.stored)).is_sound


async def test_mirror_and_read_models_go_on_over_a_detached_partition(yard: ArchiveYard, bus: Bus) -> None:
    await fill_domain(yard, 50)
    await yard.seal()
    async with await bus.connect("test") as client:
        async with (
            asyncpg.create_pool(yard.database.url("scheduler"), min_size=1, max_size=6) as pool,
            open_event_log(pool, str(yard.folder / "archive")) as log,
        ):
            head = (await log.head()).domain_position
            async with relaying(yard.database, bus):
                await mirrored(client, log, head)
            before = await projected(pool, log, head, 7, version=1)
            await yard.detach()
            assert await projected(pool, log, head, 7, version=2) == before
            await fill_domain(yard, 5)
            async with relaying(yard.database, bus):
                await mirrored(client, log, head + 5)
        async with yard.admin.acquire() as connection:
            verdict = await audit(connection, client)
        assert (verdict.verdict, verdict.first_position, verdict.last_position) == ("SAME", 21, head + 5)


async def test_two_sealers_at_once_seal_every_segment_once(yard: ArchiveYard) -> None:
    await fill_domain(yard, 50)

    async def seal() -> None:
        sealer = yard.sealer()
        for _ in range(12):
            await sealer.seal_next(DOMAIN)

    await asyncio.gather(seal(), seal(), seal())
    await yard.seal()
    numbers = [name.number for name in await yard.archive.names(DOMAIN)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert (await verify(yard.archive, [yard.key.public], log=yard.hot, stored=yard.stored)).findings == []


async def test_the_log_is_sealed_as_it_grows(yard: ArchiveYard) -> None:
    await fill_domain(yard, 30)
    await fill_telemetry(yard, 15)
    async with asyncio.TaskGroup() as tasks:
        watch = SealingWatch(
            yard.hot,
            yard.stored,
            yard.sealer().seal_due,
            settings=SealingSettings(events_max=SEGMENT),
            look_seconds=0.05,
        )
        running = tasks.create_task(watch.run())
        sealed = set()
        async for page in follow(yard.hot, DOMAIN, filter=EventFilter(categories=["log"])):
            sealed |= {(one.envelope.stream, one.envelope.stream_version) for one in page.events}
            if {("log-domain", 4), ("log-telemetry", 2)} <= sealed:
                break
        running.cancel()


async def test_an_object_store_holds_the_archive(
    yard: ArchiveYard, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = S3Place(bucket.endpoint, bucket.region, bucket.name, bucket.access_key, bucket.secret_key)
    yard.store = open_store(place.url)
    try:
        assert await yard.store.get("domain/none") is None
        assert await yard.store.list("domain/") == []
        await fill_domain(yard, 20)
        await yard.seal()
        report = await verify(yard.archive, [yard.key.public], log=yard.hot, stored=yard.stored)
        assert report.findings == []
        assert report.lanes[0].archived_count == 21
        monkeypatch.setattr(verification, "EVENTS_FOR_PROCESSES", 1)
        apart = await verify(
            yard.archive,
            [yard.key.public],
            log=yard.hot,
            stored=yard.stored,
            process_count=2,
            database_url=yard.database.url("reader"),
        )
        assert apart.lanes == report.lanes
        (event,) = (await yard.hot.read(DOMAIN, limit=1)).events
        proof = await prove_event(yard.archive, yard.stored, event.envelope.event_id)
        assert check_proof(proof, yard.key.public).event.position == 1
    finally:
        yard.store.close()
