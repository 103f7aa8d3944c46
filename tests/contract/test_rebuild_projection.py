"""A rebuild beside a live read model: compared before it is swapped in, and resumed after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard.projection.v1.events_pb2 import ProjectionRebuilt
from runyard.projection.v1.types_pb2 import RebuildPhase, RebuildProgress
from runyard.run.v1.events_pb2 import RunStatusDetailSet
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import SystemClock
from runyard_core.errors import Conflict, NotFound, Rejected
from runyard_core.projection import Put, RowKey, Rows
from runyard_eventlog.builds import Builds
from runyard_eventlog.dead_letters import DeadLetters
from runyard_eventlog.disputes import dispute
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.failure_limit import ProjectionStopped
from runyard_eventlog.filling import fill
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.projector import Projector
from runyard_eventlog.readmodel import Build
from runyard_eventlog.rebuild import Rebuilder, Subject
from runyard_eventlog.rebuild_progress import ProgressMeter
from runyard_eventlog.rebuild_record import BUILDING, RebuildRecord, RebuildRecords
from runyard_testkit import Database
from tests.contract.events import context, details, run_stream
from tests.contract.stories import POISON, Stories, rows_of

DONE, DIFFERS = RebuildPhase.REBUILD_PHASE_DONE, RebuildPhase.REBUILD_PHASE_DIFFERS
SCHEMA = "scheduler"


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database.url("scheduler"), min_size=1, max_size=12) as opened:
        yield opened


class RingingLog(PostgresEventLog):
    """Rings a bell that projectors hear, so that nothing waits for the next look at the head."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.bell = Doorbell()
        super().__init__(pool, doorbell=self.bell)


@pytest.fixture
async def log(pool: asyncpg.Pool) -> AsyncIterator[RingingLog]:
    async with RingingLog(pool) as opened:
        yield opened


@asynccontextmanager
async def live(
    pool: asyncpg.Pool, log: RingingLog, projection: Stories | None = None
) -> AsyncIterator[Projector]:
    projector = Projector(pool, log, projection or Stories(), schema=SCHEMA, doorbell=log.bell)
    task = asyncio.ensure_future(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def shown(projector: Projector, position: int) -> None:
    """Wait for a position of a projector that has stopped, and is about to notice that it may go on."""
    async with asyncio.timeout(10):
        while True:
            with suppress(ProjectionStopped):
                return await projector.wait_for(position, 10)
            await asyncio.sleep(0.02)


class Told:
    """What a rebuild reported."""

    def __init__(self) -> None:
        self.last = RebuildProgress()
        self._heard = asyncio.Event()

    def hear(self, progress: RebuildProgress) -> None:
        self.last = progress
        self._heard.set()

    async def reaches(self, phase: RebuildPhase.ValueType) -> None:
        while self.last.phase != phase:
            self._heard.clear()
            await self._heard.wait()


def rebuilder(
    pool: asyncpg.Pool, log: RingingLog, projection: Stories | None = None
) -> tuple[Rebuilder, Told]:
    told = Told()
    subject = Subject("scheduler", SCHEMA, projection or Stories(), Lane.LANE_DOMAIN)
    meter = ProgressMeter(RebuildProgress(), SystemClock(), told.hear)
    return Rebuilder(pool, log, subject, meter, SystemClock()), told


async def begin(pool: asyncpg.Pool, *, accepts: bool = False) -> RebuildRecord:
    wanted = RebuildRecord(uuid7(), 1, "user:alice", "", accepts, BUILDING, None)
    async with pool.acquire() as connection:
        return await RebuildRecords(Stories(), SCHEMA).begin(connection, wanted)


async def rebuilt(
    pool: asyncpg.Pool,
    log: RingingLog,
    projection: Stories | None = None,
    *,
    accepts: bool = False,
) -> RebuildProgress:
    await begin(pool, accepts=accepts)
    work, told = rebuilder(pool, log, projection)
    await work.rebuild()
    return told.last


async def tell(log: RingingLog, count: int) -> tuple[int, Sequence[str]]:
    streams = [run_stream() for _ in range(5)]
    for number in range(count // 10):
        words = [f"w{(number * 7 + each) % 23}" for each in range(10)]
        answer = await log.append(details(streams[number % 5], number // 5 * 10, *words))
    return answer.position, streams


async def test_a_rebuild_takes_the_live_tables_place_and_tells_the_log(
    pool: asyncpg.Pool, log: RingingLog
) -> None:
    head, _ = await tell(log, 100)
    async with live(pool, log) as projector:
        await projector.wait_for(head, 10)
        before = await rows_of(pool, SCHEMA)  # type: ignore[arg-type]
        told = await rebuilt(pool, log)
        assert told.phase == DONE
        assert [(table.table, table.live_row_count, table.rebuilt_row_count) for table in told.tables] == [
            ("story", 100, 100),
            ("word", 100, 100),
        ]
        assert all(table.live_checksum == table.rebuilt_checksum for table in told.tables)
        assert await rows_of(pool, SCHEMA) == before  # type: ignore[arg-type]
        # The projector goes on with the tables that are in place now, and so does the view.
        answer = await log.append(details(run_stream(), 0, "later"))
        await projector.wait_for(answer.position, 10)
        assert await pool.fetchval("select count(*) from scheduler.word where word = 'later'") == 1
        assert await pool.fetchval("select count(*) from scheduler.story_v1_old") == 100
    (event,) = await log.read_stream(stream_name("projection", "scheduler.stories"))
    assert isinstance(event.message, ProjectionRebuilt)
    assert (event.message.projection, event.message.position) == ("stories", head)
    assert event.envelope.actor.id == "alice"
    assert event.position == told.event_position


async def test_what_is_replaced_is_kept_until_it_is_dropped(pool: asyncpg.Pool, log: RingingLog) -> None:
    await tell(log, 20)
    async with live(pool, log) as projector:
        await projector.wait_for(20, 10)
        await rebuilt(pool, log)
        with pytest.raises(Rejected) as caught:
            await begin(pool)
        assert caught.value.code == "OLD_BUILD_KEPT"
        builds = Builds(Stories(), SCHEMA)
        async with pool.acquire() as connection:
            kept = await builds.kept(connection)
            assert [each.build for each in kept] == [Build.LIVE, Build.OLD]
            assert kept[1].size_bytes > 0
            await builds.drop(connection, kept[1])
        assert (await rebuilt(pool, log)).phase == DONE
        names = await pool.fetch(
            "select indexname from pg_indexes where schemaname = 'scheduler' and tablename ~ '^(story|word)'"
        )
        assert sorted(row["indexname"] for row in names) == [
            "story_v1_pkey",
            "story_v1_pkey_old",
            "word_v1_pkey",
            "word_v1_pkey_old",
        ]


async def test_a_service_s_own_indexes_are_made_anew(pool: asyncpg.Pool, log: RingingLog) -> None:
    await tell(log, 20)
    async with live(pool, log) as projector:
        await projector.wait_for(20, 10)
        await pool.execute(
            "create index story_last_v1 on scheduler.story_v1 (last, position desc) where count > 1"
        )
        await rebuilt(pool, log)
    definition = await pool.fetchval(
        "select indexdef from pg_indexes where indexname = 'story_last_v1' and tablename = 'story_v1'"
    )
    assert definition.endswith('(last, "position" DESC) WHERE (count > 1)')


async def test_a_killed_rebuild_goes_on_from_its_own_checkpoint(pool: asyncpg.Pool, log: RingingLog) -> None:
    await tell(log, 100)
    async with live(pool, log) as projector:
        await projector.wait_for(100, 10)
        await begin(pool)
        store = ProjectionStore(Stories(), SCHEMA, Build.NEW)
        async with pool.acquire() as connection:
            await store.create(connection)
            place = await store.place(connection)
        killed = fill(
            pool, log, store, Stories(), lane=Lane.LANE_DOMAIN, place=place, to_position=100, batch_max=30
        )
        async with aclosing(killed) as batches:
            await anext(batches)
            await anext(batches)
        work, told = rebuilder(pool, log)
        await work.rebuild()
        assert told.last.phase == DONE
        assert told.last.resumed_from_position == 60


async def test_a_rebuild_killed_after_the_swap_tells_the_log_once(
    pool: asyncpg.Pool, log: RingingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tell(log, 20)
    async with live(pool, log) as projector:
        await projector.wait_for(20, 10)
        await begin(pool)
        for killed_in in ("_tell", "end"):
            work, _ = rebuilder(pool, log)
            with monkeypatch.context() as patch:
                target = Rebuilder if killed_in == "_tell" else RebuildRecords
                patch.setattr(target, killed_in, _killed)
                with pytest.raises(KeyboardInterrupt):
                    await work.rebuild()
        work, told = rebuilder(pool, log)
        await work.rebuild()
        assert told.last.phase == DONE
    assert len(await log.read_stream(stream_name("projection", "scheduler.stories"))) == 1
    with pytest.raises(NotFound):
        await work.rebuild()


async def _killed(*_: object) -> None:
    raise KeyboardInterrupt


async def test_a_damaged_live_table_is_named_row_by_row_and_replaced_when_accepted(
    pool: asyncpg.Pool, log: RingingLog
) -> None:
    _, streams = await tell(log, 50)
    async with live(pool, log) as projector:
        await projector.wait_for(50, 10)
        right = await rows_of(pool, SCHEMA)  # type: ignore[arg-type]
        run_id = streams[1].removeprefix("run-")
        await pool.execute("update scheduler.story_v1 set count = 99 where position = 13")
        await pool.execute("delete from scheduler.word_v1 where position = 50")
        told = await rebuilt(pool, log)
        assert told.phase == DIFFERS
        changed, dropped = told.differences
        assert (changed.table, changed.position) == ("story", 13)
        assert changed.key_json == f'{{"run_id": "{run_id}"}}'
        assert '"count": 99' in changed.live_row_json
        assert '"count": 3' in changed.rebuilt_row_json
        assert (dropped.table, dropped.position, dropped.live_row_json) == ("word", 50, "")
        assert await pool.fetchval("select max(count) from scheduler.story_v1") == 99
        told = await rebuilt(pool, log, accepts=True)
        assert told.phase == DONE
        assert await rows_of(pool, SCHEMA) == right  # type: ignore[arg-type]
    (event,) = await log.read_stream(stream_name("projection", "scheduler.stories"))
    assert isinstance(event.message, ProjectionRebuilt)
    assert event.message.differences_accepted


async def test_a_verification_finds_a_changed_row_and_leaves_nothing_behind(
    pool: asyncpg.Pool, log: RingingLog
) -> None:
    await tell(log, 50)
    async with live(pool, log) as projector:
        await projector.wait_for(50, 10)
        work, told = rebuilder(pool, log)
        await work.verify()
        assert told.last.phase == DONE
        assert [table.rebuilt_row_count for table in told.last.tables] == [50, 50]
        await pool.execute("update scheduler.word_v1 set count = 0 where position = 7")
        work, told = rebuilder(pool, log)
        await work.verify()
        assert told.last.phase == DIFFERS
        (difference,) = told.last.differences
        assert (difference.table, difference.position) == ("word", 7)
    assert await pool.fetchval("select count(*) from pg_tables where tablename ~ '_check$'") == 0
    assert await log.read_stream(stream_name("projection", "scheduler.stories")) == []


async def test_two_rebuilds_of_one_read_model_do_not_run_together(
    pool: asyncpg.Pool, log: RingingLog
) -> None:
    await tell(log, 20)
    async with live(pool, log) as projector:
        await projector.wait_for(20, 10)
        first, second = (rebuilder(pool, log)[0] for _ in range(2))
        answers = await asyncio.gather(first.verify(), second.verify(), return_exceptions=True)
    (refused,) = [answer for answer in answers if answer is not None]
    assert isinstance(refused, Conflict)
    assert refused.code == "REBUILD_RUNNING"


async def test_a_query_that_takes_its_time_is_waited_for(pool: asyncpg.Pool, log: RingingLog) -> None:
    await tell(log, 20)
    async with live(pool, log) as projector, pool.acquire() as reader:
        await projector.wait_for(20, 10)
        query = reader.transaction()
        await query.start()
        assert await reader.fetchval("select count(*) from scheduler.story_v1") == 20
        await begin(pool)
        work, told = rebuilder(pool, log)
        task = asyncio.ensure_future(work.rebuild())
        async with asyncio.timeout(10):
            await told.reaches(RebuildPhase.REBUILD_PHASE_SWAPPING)
        # Others are served while it waits.
        assert await pool.fetchval("select count(*) from scheduler.story_v1", timeout=5) == 20
        await query.commit()
        await task
        assert told.last.phase == DONE


async def test_a_disputed_event_is_left_out_by_a_rebuild_and_only_then(
    pool: asyncpg.Pool, log: RingingLog, database: Database
) -> None:
    run = run_stream()
    await log.append(details(run, 0, "a", "b", "c"))
    disputed = (await log.read_stream(run))[1]
    async with live(pool, log) as projector, await PostgresEventLog.connect(database.url("lineage")) as own:
        await projector.wait_for(3, 10)

        async def say(reason: str, *, withdraw: bool = False) -> int:
            executed, _ = await dispute(
                own,
                disputed.envelope.event_id,
                reason,
                context(),
                withdraw=withdraw,
                command_id=CommandId(uuid7()),
                now=SystemClock().now(),
            )
            return executed.position

        with pytest.raises(Rejected):
            await say("never was", withdraw=True)
        await say("sent by a broken clock")
        log.bell.ring()
        with pytest.raises(Rejected):
            await say("again")
        assert await pool.fetchval("select words from scheduler.story") == ["a", "b", "c"]
        work, told = rebuilder(pool, log)
        await work.verify()
        assert told.last.phase == DONE
        assert (await rebuilt(pool, log)).phase == DIFFERS
        assert (await rebuilt(pool, log, accepts=True)).phase == DONE
        assert await pool.fetchval("select words from scheduler.story") == ["a", "c"]
        # What is live now was built without it, and is proven without it.
        work, told = rebuilder(pool, log)
        await work.verify()
        assert told.last.phase == DONE


class Mended(Stories):
    """The same projection, once somebody has mended its mistake."""

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        return Stories.reads(self, _healed(event))

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any]]:
        return Stories.apply(self, _healed(event), rows)


def _healed(event: RecordedEvent) -> RecordedEvent:
    message = event.message
    if isinstance(message, RunStatusDetailSet) and message.status_detail == POISON:
        message = RunStatusDetailSet(run_id=message.run_id, status_detail="medicine")
    return RecordedEvent(event.envelope, message)


async def test_requeued_events_are_applied_in_order_and_the_projector_goes_on(
    pool: asyncpg.Pool, log: RingingLog
) -> None:
    bad = run_stream()
    await log.append(details(bad, 0, "a", POISON, "b", "c"))
    letters = DeadLetters(pool, log, Stories(), schema=SCHEMA, lane=Lane.LANE_DOMAIN)
    async with live(pool, log) as projector:
        await projector.wait_for(4, 10)
        again = await letters.requeue()
        assert [(letter.position, letter.reason) for letter in again.failed] == [(2, "APPLY_FAILED")]
        assert (again.applied, again.remaining_count) == ([], 3)
    letters = DeadLetters(pool, log, Mended(), schema=SCHEMA, lane=Lane.LANE_DOMAIN)
    async with live(pool, log, Mended()) as projector:
        await projector.wait_for(4, 10)
        done = await letters.requeue(limit=2)
        assert [letter.position for letter in done.applied] == [2, 3]
        answer = await log.append(details(bad, 4, "d"))
        await projector.wait_for(answer.position, 10)
        # One is still parked, so what comes after it waits behind it.
        assert [letter.position for letter in await letters.page(after=0, limit=10)] == [4, 5]
        assert (await letters.requeue()).remaining_count == 0
        answer = await log.append(details(bad, 5, "e"))
        await projector.wait_for(answer.position, 10)
        assert projector.lag.parked_count == 0
        assert await pool.fetchval("select words from scheduler.story") == ["c", "d", "e"]
        assert await pool.fetchval("select count from scheduler.story") == 6
        work, told = rebuilder(pool, log, Mended())
        await work.verify()
        assert told.last.phase == DONE
        nothing = await letters.requeue()
        assert (nothing.applied, nothing.failed) == ([], [])


async def test_an_event_whose_place_is_in_others_past_is_not_requeued(
    pool: asyncpg.Pool, log: RingingLog
) -> None:
    await log.append(details(run_stream(), 0, POISON))
    await log.append(details(run_stream(), 0, "medicine"))
    async with live(pool, log) as projector:
        await projector.wait_for(2, 10)
    letters = DeadLetters(pool, log, Mended(), schema=SCHEMA, lane=Lane.LANE_DOMAIN)
    with pytest.raises(Rejected) as caught:
        await letters.requeue()
    assert caught.value.code == "REBUILD_NEEDED"
    assert len(await letters.page(after=0, limit=10)) == 1
    async with live(pool, log, Mended()) as projector:
        assert (await rebuilt(pool, log, Mended(), accepts=True)).phase == DONE
        assert await pool.fetchval("select count from scheduler.word") == 2
    assert await letters.page(after=0, limit=10) == []


async def test_a_stopped_projector_goes_on_after_a_rebuild_without_what_was_disputed(
    pool: asyncpg.Pool, log: RingingLog, database: Database
) -> None:
    poisoned = [run_stream() for _ in range(22)]
    for run in poisoned:
        await log.append(details(run, 0, POISON))
    async with live(pool, log) as projector:
        with pytest.raises(ProjectionStopped):
            await projector.wait_for(22, 10)
        async with await PostgresEventLog.connect(database.url("lineage")) as own:
            for run in poisoned:
                (event,) = await log.read_stream(run)
                await dispute(
                    own,
                    event.envelope.event_id,
                    "poisoned",
                    context(),
                    withdraw=False,
                    command_id=CommandId(uuid7()),
                    now=SystemClock().now(),
                )
        answer = await log.append(details(run_stream(), 0, "fine"))
        assert (await rebuilt(pool, log)).phase == DONE
        await shown(projector, answer.position)
        assert projector.stopped is None
        assert await pool.fetchval("select words from scheduler.story") == ["fine"]


async def test_tables_that_are_ahead_of_a_restored_log_are_rebuilt_to_its_end(
    pool: asyncpg.Pool, log: RingingLog
) -> None:
    await tell(log, 20)
    async with live(pool, log) as projector:
        await projector.wait_for(20, 10)
    await pool.execute("update scheduler.projection_checkpoint set position = 70")
    async with live(pool, log) as projector:
        with pytest.raises(ProjectionStopped):
            await projector.wait_for(21, 10)
        assert (await rebuilt(pool, log)).phase == DONE
        await shown(projector, 21)
        assert projector.checkpoint == 21
