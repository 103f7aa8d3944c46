"""A projector's tables are the same however they came about."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import asyncpg
import pytest
from sqlalchemy import select
from sqlalchemy.dialects import postgresql

from runyard_contracts.ids import Position
from runyard_core.errors import DeadlineExceeded
from runyard_core.projection import TableSpec
from runyard_eventlog import readmodel
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.failure_limit import ProjectionStopped
from runyard_eventlog.folding import Folded
from runyard_eventlog.port import EventLog, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.projector import Projector
from runyard_testkit import Database
from tests.contract.events import command, context, detail, details, fill, run_stream
from tests.contract.stories import POISON, STORY, WORD, Stories, StoryRow, WordRow, rows_of

pytestmark = pytest.mark.engines


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database.url("scheduler"), min_size=1, max_size=10) as opened:
        yield opened


@pytest.fixture
async def log(pool: asyncpg.Pool) -> AsyncIterator[PostgresEventLog]:
    async with PostgresEventLog(pool) as opened:
        yield opened


@asynccontextmanager
async def running(projector: Projector) -> AsyncIterator[Projector]:
    task = asyncio.ensure_future(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def tell(log: PostgresEventLog, count: int, seed: int = 1) -> int:
    """Append a mixture of streams and words."""
    dice = random.Random(seed)
    streams = [run_stream() for _ in range(7)]
    versions = dict.fromkeys(streams, 0)
    while count > 0:
        stream = dice.choice(streams)
        words = [dice.choice("abc") for _ in range(min(count, dice.randint(1, 4)))]
        answer = await log.append(details(stream, versions[stream], *words))
        versions[stream] += len(words)
        count -= len(words)
    return answer.position


async def projected(
    pool: asyncpg.Pool, log: EventLog, position: int, batch_max: int, version: int
) -> list[tuple[object, ...]]:
    """Build a version from nothing, and give its rows."""
    projector = Projector(pool, log, Stories(version), schema="scheduler", batch_max=batch_max)
    async with running(projector):
        await projector.wait_for(position, 30)
        return await rows_of(pool, "scheduler", version)  # type: ignore[arg-type]


async def test_batches_of_1_7_and_1000_give_the_same_rows(pool: asyncpg.Pool, log: PostgresEventLog) -> None:
    head = await tell(log, 200)
    alone = await projected(pool, log, head, 1, version=1)
    assert len(alone) == 400
    assert await projected(pool, log, head, 7, version=2) == alone
    assert await projected(pool, log, head, 1_000, version=3) == alone


async def test_live_and_rebuilt_are_the_same(pool: asyncpg.Pool, log: PostgresEventLog) -> None:
    bell = Doorbell()
    live = Projector(pool, log, Stories(1), schema="scheduler", doorbell=bell)
    head = 0
    async with running(live):
        for part in range(10):
            head = await tell(log, 15, seed=part)
            bell.ring()
            await live.wait_for(head, 10)
        rows = await rows_of(pool, "scheduler")  # type: ignore[arg-type]
    assert await projected(pool, log, head, 1_000, version=2) == rows


async def test_killed_after_any_batch_and_resumed_gives_the_same_rows(
    pool: asyncpg.Pool, log: PostgresEventLog
) -> None:
    head = await tell(log, 60)
    whole = await projected(pool, log, head, 1_000, version=1)
    target = 0
    while target < head:
        target += 9
        projector = Projector(pool, log, Stories(2), schema="scheduler", batch_max=2)
        async with running(projector):
            await projector.wait_for(min(target, head), 10)
    assert await rows_of(pool, "scheduler", 2) == whole  # type: ignore[arg-type]


async def test_batches_that_a_crash_of_the_database_took_are_folded_again(
    pool: asyncpg.Pool, log: PostgresEventLog
) -> None:
    head = await tell(log, 40)
    projector = Projector(pool, log, Stories(), schema="scheduler", batch_max=7)
    async with running(projector):
        await projector.wait_for(head, 10)
        whole = await rows_of(pool, "scheduler")  # type: ignore[arg-type]
        # As after a crash: rows and checkpoint are as they were some batches ago.
        async with pool.acquire() as connection, connection.transaction():
            for table in ("story_v1", "word_v1"):
                await connection.execute(f"delete from scheduler.{table} where position > 14")
            await connection.execute("update scheduler.projection_checkpoint set position = 14")
        answer = await log.append(details(run_stream(), 0, "later"))
        await projector.wait_for(answer.position, 10)
        again = await rows_of(pool, "scheduler")  # type: ignore[arg-type]
    assert [row for row in again if answer.position not in row] == whole


CUT = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'runyard_scheduler'"


async def test_cut_connections_give_no_row_twice(
    pool: asyncpg.Pool, log: PostgresEventLog, database: Database
) -> None:
    head = await tell(log, 150)
    whole = await projected(pool, log, head, 1_000, version=1)
    async with database.connected() as admin:
        projector = Projector(pool, log, Stories(2), schema="scheduler", batch_max=3)
        async with running(projector):
            while projector.checkpoint < head:
                await admin.execute(CUT)
                await projector.wait_for(min(projector.checkpoint + 30, head), 20)
    assert await rows_of(pool, "scheduler", 2) == whole  # type: ignore[arg-type]


async def test_two_processes_give_no_row_twice(pool: asyncpg.Pool, log: PostgresEventLog) -> None:
    head = await tell(log, 120)
    whole = await projected(pool, log, head, 1_000, version=1)
    twins = [Projector(pool, log, Stories(2), schema="scheduler", batch_max=4) for _ in range(2)]
    async with running(twins[0]), running(twins[1]):
        await asyncio.gather(*(twin.wait_for(head, 20) for twin in twins))
    assert await rows_of(pool, "scheduler", 2) == whole  # type: ignore[arg-type]


async def test_a_query_waits_for_its_own_write(pool: asyncpg.Pool, log: PostgresEventLog) -> None:
    projector = Projector(pool, log, Stories(), schema="scheduler", doorbell=Doorbell())
    async with running(projector):
        with pytest.raises(DeadlineExceeded) as caught:
            await projector.wait_for(1, 0.05)
        assert caught.value.metadata["min_position"] == "1"
        position = await tell(log, 5)
        await projector.wait_for(position, 10)
        assert len(await rows_of(pool, "scheduler")) == 10  # type: ignore[arg-type]


async def test_events_that_it_does_not_want_only_move_the_checkpoint(
    pool: asyncpg.Pool, log: PostgresEventLog
) -> None:
    class Picky(Stories):
        @property
        def event_types(self) -> frozenset[str]:
            return frozenset({"runyard.run.queued"})

    await fill(log, 30)
    projector = Projector(pool, log, Picky(), schema="scheduler")
    async with running(projector):
        await projector.wait_for(30, 10)
        assert await rows_of(pool, "scheduler") == []  # type: ignore[arg-type]


async def test_current_and_past_rows_are_plain_queries(pool: asyncpg.Pool, log: PostgresEventLog) -> None:
    stream, other = run_stream(), run_stream()
    await log.append(details(stream, 0, "a", "b"))
    await log.append(details(other, 0, "x"))
    await log.append(details(stream, 2, "c"))
    projector = Projector(pool, log, Stories(), schema="scheduler")
    table = readmodel.table(STORY, 1, "scheduler")

    async def counts(position: int | None) -> dict[str, int]:
        rows = readmodel.as_of(table, position)
        asked = (
            select(rows.c.run_id, rows.c.count)
            .where(rows.c.count > 0)
            .compile(
                dialect=postgresql.dialect(),  # type: ignore[no-untyped-call]
                compile_kwargs={"literal_binds": True},
            )
        )
        return {f"run-{row['run_id']}": row["count"] for row in await pool.fetch(str(asked))}

    async with running(projector):
        await projector.wait_for(4, 10)
        assert await counts(None) == {stream: 3, other: 1}
        assert await counts(2) == {stream: 2}
        assert await counts(1) == {stream: 1}
        view = await pool.fetch("select run_id, count, words, last from scheduler.story order by count")
        assert [(row["count"], row["words"], row["last"]) for row in view] == [
            (1, ["x"], None),
            (3, ["a", "b", "c"], "c"),
        ]


async def test_the_view_moves_to_a_new_version_when_it_has_caught_up(
    pool: asyncpg.Pool, log: PostgresEventLog
) -> None:
    async def shown() -> str:
        return str(await pool.fetchval("select pg_get_viewdef('scheduler.story'::regclass)"))

    head = await tell(log, 10)
    await projected(pool, log, head, 5, version=1)
    assert "story_v1" in await shown()
    await projected(pool, log, 3, 3, version=2)
    newer = Projector(pool, log, Stories(2), schema="scheduler", batch_max=3)
    async with running(newer):
        await newer.wait_for(head, 10)
        assert "story_v2" in await shown()
    await projected(pool, log, await tell(log, 1), 5, version=1)
    assert "story_v2" in await shown()


async def test_a_failing_event_parks_its_stream_in_order_and_others_go_on(
    pool: asyncpg.Pool, log: PostgresEventLog
) -> None:
    bad, good = run_stream(), run_stream()
    await log.append(details(bad, 0, "a", POISON, "behind 1"))
    await log.append(details(good, 0, "x"))
    await log.append(details(bad, 3, "behind 2"))
    projector = Projector(pool, log, Stories(), schema="scheduler", batch_max=2)
    async with running(projector):
        await projector.wait_for(5, 10)
        assert projector.lag.parked_count == 3
        assert projector.lag.oldest_parked_seconds >= 0
    await log.append(details(bad, 4, "behind 3"))
    again = Projector(pool, log, Stories(), schema="scheduler")
    async with running(again):
        await again.wait_for(6, 10)
        assert again.lag.parked_count == 4
    parked = await pool.fetch(
        "select position, reason, stream from scheduler.projection_parked order by position"
    )
    assert [tuple(row) for row in parked] == [
        (2, "APPLY_FAILED", bad),
        (3, "BEHIND_PARKED", bad),
        (5, "BEHIND_PARKED", bad),
        (6, "BEHIND_PARKED", bad),
    ]
    story = await pool.fetch("select run_id, count from scheduler.story order by 1")
    assert {(f"run-{row['run_id']}", row["count"]) for row in story} == {(bad, 1), (good, 1)}


async def test_an_undecodable_event_is_parked_and_its_stream_goes_on(
    pool: asyncpg.Pool, log: PostgresEventLog
) -> None:
    stream = run_stream()
    broken, newer = detail(stream, "b", context()), detail(stream, "c", context())
    broken.data = b"\xff\xff\xff"
    newer.schema_version = 99
    await log.append(
        command(StreamAppend(stream, 0, [detail(stream, "a"), broken, newer, detail(stream, "d")]))
    )
    projector = Projector(pool, log, Stories(), schema="scheduler")
    async with running(projector):
        await projector.wait_for(4, 10)
    reasons = await pool.fetch("select position, reason from scheduler.projection_parked order by 1")
    assert [tuple(row) for row in reasons] == [(2, "UNDECODABLE"), (3, "UNDECODABLE")]
    assert await pool.fetchval("select words from scheduler.story") == ["a", "d"]


async def test_twenty_failures_in_a_row_stop_it_before_anything_of_them_is_kept(
    pool: asyncpg.Pool, log: PostgresEventLog
) -> None:
    for _ in range(25):
        await log.append(details(run_stream(), 0, POISON))
    projector = Projector(pool, log, Stories(), schema="scheduler")
    async with running(projector):
        with pytest.raises(ProjectionStopped):
            await projector.wait_for(25, 10)
        assert isinstance(projector.stopped, ProjectionStopped)
        assert projector.checkpoint == 0
        assert await pool.fetchval("select count(*) from scheduler.projection_parked") == 0


async def test_more_than_one_percent_of_failures_stops_it(pool: asyncpg.Pool, log: PostgresEventLog) -> None:
    for _ in range(21):
        await log.append(details(run_stream(), 0, "fine"))
        await log.append(details(run_stream(), 0, POISON))
    projector = Projector(pool, log, Stories(), schema="scheduler")
    async with running(projector):
        with pytest.raises(ProjectionStopped):
            await projector.wait_for(42, 10)


async def test_lag_is_told(pool: asyncpg.Pool, log: PostgresEventLog) -> None:
    head = await tell(log, 50)
    projector = Projector(pool, log, Stories(), schema="scheduler", batch_max=10)
    async with running(projector):
        await projector.wait_for(Position(head), 10)
        await asyncio.sleep(0)
        assert projector.checkpoint == head
        assert projector.lag.time_lag_seconds > 0


async def test_a_process_that_opens_its_tables_and_another_s_batch_do_not_wait_for_each_other(
    pool: asyncpg.Pool, admin: asyncpg.Connection
) -> None:
    store = ProjectionStore(Looked(), "scheduler")
    async with pool.acquire() as writer:
        await store.create(writer)
        place = await store.place(writer)
        async with asyncio.timeout(10):
            async with writer.transaction():
                await store.lock_to_write(writer, place)
                async with pool.acquire() as opener:
                    await store.create(opener)
                row = StoryRow("r", 1, 1, b"", None, ("a",))
                await store.write(writer, Folded({"story": [row]}), Position(1))
    made = await admin.fetch("select indexname from pg_indexes where tablename = 'story_v1' order by 1")
    assert [row["indexname"] for row in made] == ["story_v1_by_1", "story_v1_pkey"]


class Looked(Stories):
    """Stories that are also looked up by what was said last."""

    @property
    def tables(self) -> tuple[TableSpec[StoryRow], TableSpec[WordRow]]:
        return (replace(STORY, indexes=(("last", "position"),)), WORD)
