"""A rebuild beside a live read model: compared before it is swapped in, and resumed after a kill."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

import asyncpg
import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard.projection.v1.events_pb2 import ProjectionRebuilt
from runyard.projection.v1.types_pb2 import RebuildPhase
from runyard_contracts.ids import Position, stream_name
from runyard_core.errors import Conflict, NotFound, Rejected
from runyard_core.projection import TableSpec
from runyard_eventlog import readmodel
from runyard_eventlog.builds import Builds
from runyard_eventlog.failure_limit import ProjectionStopped
from runyard_eventlog.filling import fill
from runyard_eventlog.folding import Folded
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.readmodel import Build
from runyard_eventlog.rebuild import Rebuilder
from runyard_eventlog.rebuild_record import RebuildRecords
from runyard_eventlog.shown_view import point_view
from tests.contract.events import details, run_stream
from tests.contract.rebuild_yard import (
    DIFFERS,
    DONE,
    SCHEMA,
    RingingLog,
    begin,
    live,
    rebuilder,
    rebuilt,
    shown,
    tell,
)
from tests.contract.stories import WORD, Quotes, Stories, StoryRow, WordRow, rows_of

pytestmark = pytest.mark.engines

WAITING = """
select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
"""


async def test_a_rebuild_takes_the_live_tables_place_and_tells_the_log(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    head, _ = await tell(story_log, 100)
    async with live(pool, story_log) as projector:
        await projector.wait_for(head, 10)
        before = await rows_of(pool, SCHEMA)  # type: ignore[arg-type]
        told = await rebuilt(pool, story_log)
        assert told.phase == DONE
        assert [(table.table, table.live_row_count, table.rebuilt_row_count) for table in told.tables] == [
            ("story", 100, 100),
            ("word", 100, 100),
        ]
        assert all(table.live_checksum == table.rebuilt_checksum for table in told.tables)
        assert await rows_of(pool, SCHEMA) == before  # type: ignore[arg-type]
        # The projector goes on with the tables that are in place now, and so does the view.
        answer = await story_log.append(details(run_stream(), 0, "later"))
        await projector.wait_for(answer.position, 10)
        assert await pool.fetchval("select count(*) from scheduler.word where word = 'later'") == 1
        assert await pool.fetchval("select count(*) from scheduler.story_v1_old") == 100
    (event,) = await story_log.read_stream(stream_name("projection", "scheduler.stories"))
    assert isinstance(event.message, ProjectionRebuilt)
    assert (event.message.projection, event.message.position) == ("stories", head)
    assert event.envelope.actor.id == "alice"
    assert event.position == told.event_position


async def test_what_was_granted_and_built_on_a_view_outlives_a_rebuild(
    pool: asyncpg.Pool, story_log: RingingLog, admin: asyncpg.Connection
) -> None:
    await tell(story_log, 20)
    async with live(pool, story_log) as projector:
        await projector.wait_for(20, 10)
        await admin.execute("grant select on scheduler.word to runyard_cost")
        await admin.execute("create view public.said as select word from scheduler.word")
        assert (await rebuilt(pool, story_log)).phase == DONE
        answer = await story_log.append(details(run_stream(), 0, "later"))
        await projector.wait_for(answer.position, 10)
        assert await admin.fetchval("select count(*) from public.said where word = 'later'") == 1
        assert await admin.fetchval("select has_table_privilege('runyard_cost', 'scheduler.word', 'select')")
        await admin.execute("drop view public.said")


@dataclass(frozen=True, slots=True)
class _OtherWord:
    word: str
    position: int
    meaning: str


async def test_a_version_with_other_columns_keeps_grants_and_names_what_it_drops(
    pool: asyncpg.Pool, admin: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    other = TableSpec("word", _OtherWord, ("word",))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(readmodel.table_ddl(readmodel.table(WORD, 1, SCHEMA)))
        await connection.execute(readmodel.table_ddl(readmodel.table(other, 2, SCHEMA)))
        await point_view(connection, WORD, 1, SCHEMA)
    await admin.execute("grant select on scheduler.word to runyard_cost with grant option")
    await admin.execute("create view public.said as select word, count from scheduler.word")
    async with pool.acquire() as connection, connection.transaction():
        await point_view(connection, other, 2, SCHEMA)
    assert "dropped said, which were built on it" in caplog.text
    assert await admin.fetchval("select to_regclass('public.said')") is None
    granted = "select has_table_privilege('runyard_cost', 'scheduler.word', 'select with grant option')"
    assert await admin.fetchval(granted)
    assert await admin.fetch("select word, meaning from scheduler.word") == []


async def test_what_is_replaced_is_kept_until_it_is_dropped(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    await tell(story_log, 20)
    async with live(pool, story_log) as projector:
        await projector.wait_for(20, 10)
        await rebuilt(pool, story_log)
        with pytest.raises(Rejected) as caught:
            await begin(pool)
        assert caught.value.code == "OLD_BUILD_KEPT"
        builds = Builds(Stories(), SCHEMA)
        async with pool.acquire() as connection:
            kept = await builds.kept(connection)
            assert [each.build for each in kept] == [Build.LIVE, Build.OLD]
            assert kept[1].size_bytes > 0
            await builds.drop(connection, kept[1])
        assert (await rebuilt(pool, story_log)).phase == DONE
        names = await pool.fetch(
            "select indexname from pg_indexes where schemaname = 'scheduler' and tablename ~ '^(story|word)'"
        )
        assert sorted(row["indexname"] for row in names) == [
            "story_v1_pkey",
            "story_v1_pkey_old",
            "word_v1_pkey",
            "word_v1_pkey_old",
        ]


async def test_what_a_rebuild_replaced_is_put_into_place_again(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    await tell(story_log, 20)
    async with live(pool, story_log) as projector:
        await projector.wait_for(20, 10)
        with pytest.raises(Rejected) as caught:
            await begin(pool, from_replaced=True)
        assert caught.value.code == "NO_OLD_BUILD"
        await pool.execute("update scheduler.story_v1 set last = 'former' where position = 13")
        assert (await rebuilt(pool, story_log, accepts=True)).phase == DONE
        answer = await story_log.append(details(run_stream(), 0, "later"))
        await projector.wait_for(answer.position, 10)
        # It is brought up to now, and differs from what is live as it did: a person must accept that.
        told = await rebuilt(pool, story_log, from_replaced=True)
        assert (told.phase, told.resumed_from_position) == (DIFFERS, 20)
        assert [difference.position for difference in told.differences] == [13]
        assert (await rebuilt(pool, story_log, accepts=True, from_replaced=True)).phase == DONE
        assert await pool.fetchval("select last from scheduler.story_v1 where position = 13") == "former"
        assert await pool.fetchval("select count(*) from scheduler.word_v1 where word = 'later'") == 1
        assert await pool.fetchval("select last from scheduler.story_v1_old where position = 13") != "former"
        answer = await story_log.append(details(run_stream(), 0, "latest"))
        await projector.wait_for(answer.position, 10)
        names = await pool.fetch("select indexname from pg_indexes where tablename = 'story_v1'")
        assert [row["indexname"] for row in names] == ["story_v1_pkey"]


async def test_a_service_s_own_indexes_are_made_anew(pool: asyncpg.Pool, story_log: RingingLog) -> None:
    await tell(story_log, 20)
    async with live(pool, story_log) as projector:
        await projector.wait_for(20, 10)
        await pool.execute(
            "create index story_last_v1 on scheduler.story_v1 (last, position desc) where count > 1"
        )
        await rebuilt(pool, story_log)
    definition = await pool.fetchval(
        "select indexdef from pg_indexes where indexname = 'story_last_v1' and tablename = 'story_v1'"
    )
    assert definition.endswith('(last, "position" DESC) WHERE (count > 1)')


async def test_an_index_whose_name_is_as_long_as_can_be_is_made_anew(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    await tell(story_log, 20)
    async with live(pool, story_log) as projector:
        await projector.wait_for(20, 10)
        await pool.execute(f"create index {'i' * 63} on scheduler.story_v1 (last)")
        told = [await rebuilt(pool, story_log)]
        async with pool.acquire() as connection, connection.transaction():
            builds = Builds(Stories(), SCHEMA)
            (old,) = [kept for kept in await builds.kept(connection) if kept.build is Build.OLD]
            await builds.drop(connection, old)
        told.append(await rebuilt(pool, story_log))
    assert [each.phase for each in told] == [DONE, DONE]
    made = await pool.fetchval(
        "select count(*) from pg_indexes where tablename = 'story_v1' and indexdef like '%(last)'"
    )
    assert made == 1


async def test_indexes_are_made_before_or_after_another_process_s_batch_and_never_amid_it(
    pool: asyncpg.Pool,
) -> None:
    store = ProjectionStore(Stories(), SCHEMA, Build.NEW)
    async with pool.acquire() as writer:
        await store.create(writer)
        place = await store.place(writer)
        async with asyncio.timeout(10):
            async with writer.transaction():
                await store.lock_to_write(writer, place)
                await store.write_rows(writer, Folded({"word": [WordRow("a", 7, 1, 1)]}))
                making = asyncio.create_task(store.index(pool))
                while not await pool.fetchval(WAITING):  # noqa: ASYNC110 - the database brings it about
                    await asyncio.sleep(0.01)
                story = StoryRow("r", 1, 1, b"", None, ("a",))
                await store.write(writer, Folded({"story": [story]}), Position(1))
            await making
    keys = await pool.fetch("select conrelid::regclass::text from pg_constraint where contype = 'p'")
    assert {"scheduler.story_v1_new", "scheduler.word_v1_new"} <= {key["conrelid"] for key in keys}


async def test_a_build_is_dropped_after_another_process_s_batch_and_never_amid_it(
    pool: asyncpg.Pool,
) -> None:
    store = ProjectionStore(Stories(), SCHEMA, Build.NEW)
    builds = Builds(Stories(), SCHEMA)

    async def drop() -> None:
        async with pool.acquire() as connection, connection.transaction():
            (kept,) = await builds.kept(connection)
            await builds.drop(connection, kept)

    async with pool.acquire() as writer:
        await store.create(writer)
        place = await store.place(writer)
        async with asyncio.timeout(10):
            async with writer.transaction():
                await store.lock_to_write(writer, place)
                dropping = asyncio.create_task(drop())
                while not await pool.fetchval(WAITING):  # noqa: ASYNC110 - the database brings it about
                    await asyncio.sleep(0.01)
                story = StoryRow("r", 1, 1, b"", None, ("a",))
                await store.write(writer, Folded({"story": [story]}), Position(1))
            await dropping
        assert await builds.kept(writer) == []
        assert await writer.fetchval("select to_regclass('scheduler.story_v1_new')") is None


async def test_texts_that_no_table_can_hold_are_kept_without_their_nul_live_and_rebuilt(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    stream = run_stream()
    async with live(pool, story_log, Quotes()) as projector:
        head = (await story_log.append(details(stream, 0, "a", "b\0", "c"))).position
        await projector.wait_for(head, 10)
        head = (await story_log.append(details(stream, 3, "d"))).position
        await projector.wait_for(head, 10)
        rows = await pool.fetch("select last, words, chain from scheduler.story_v1 order by position")
        assert [row["last"] for row in rows] == ["a", "b\ufffd", "c", "d"]
        assert rows[-1]["words"] == ["a", "b\ufffd", "c", "d"]
        assert {row["chain"] for row in rows} == {b"\0"}
        assert (await rebuilt(pool, story_log, Quotes())).phase == DONE
    assert await pool.fetch("select last, words, chain from scheduler.story_v1 order by position") == rows


async def test_a_killed_rebuild_goes_on_from_its_own_checkpoint(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    await tell(story_log, 100)
    async with live(pool, story_log) as projector:
        await projector.wait_for(100, 10)
        await begin(pool)
        store = ProjectionStore(Stories(), SCHEMA, Build.NEW)
        async with pool.acquire() as connection:
            await store.create(connection)
            place = await store.place(connection)
        killed = fill(
            pool,
            story_log,
            store,
            Stories(),
            lane=Lane.LANE_DOMAIN,
            place=place,
            to_position=100,
            batch_max=30,
        )
        async with aclosing(killed) as batches:
            await anext(batches)
            await anext(batches)
        work, told = rebuilder(pool, story_log)
        await work.rebuild()
        assert told.last.phase == DONE
        assert told.last.resumed_from_position == 60


async def test_a_rebuild_killed_after_the_swap_tells_the_log_once(
    pool: asyncpg.Pool, story_log: RingingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tell(story_log, 20)
    async with live(pool, story_log) as projector:
        await projector.wait_for(20, 10)
        await begin(pool)
        for killed_in in ("_tell", "end"):
            work, _ = rebuilder(pool, story_log)
            with monkeypatch.context() as patch:
                target = Rebuilder if killed_in == "_tell" else RebuildRecords
                patch.setattr(target, killed_in, _killed)
                with pytest.raises(KeyboardInterrupt):
                    await work.rebuild()
        work, told = rebuilder(pool, story_log)
        await work.rebuild()
        assert told.last.phase == DONE
    assert len(await story_log.read_stream(stream_name("projection", "scheduler.stories"))) == 1
    with pytest.raises(NotFound):
        await work.rebuild()


async def _killed(*_: object) -> None:
    raise KeyboardInterrupt


async def test_two_rebuilds_of_one_read_model_do_not_run_together(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    await tell(story_log, 20)
    async with live(pool, story_log) as projector:
        await projector.wait_for(20, 10)
        first, second = (rebuilder(pool, story_log)[0] for _ in range(2))
        answers = await asyncio.gather(first.verify(), second.verify(), return_exceptions=True)
    (refused,) = [answer for answer in answers if answer is not None]
    assert isinstance(refused, Conflict)
    assert refused.code == "REBUILD_RUNNING"


async def test_a_query_that_takes_its_time_is_waited_for(pool: asyncpg.Pool, story_log: RingingLog) -> None:
    await tell(story_log, 20)
    async with live(pool, story_log) as projector, pool.acquire() as reader:
        await projector.wait_for(20, 10)
        query = reader.transaction()
        await query.start()
        assert await reader.fetchval("select count(*) from scheduler.story_v1") == 20
        await begin(pool)
        work, told = rebuilder(pool, story_log)
        task = asyncio.ensure_future(work.rebuild())
        async with asyncio.timeout(10):
            await told.reaches(RebuildPhase.REBUILD_PHASE_SWAPPING)
        # Others are served while it waits.
        assert await pool.fetchval("select count(*) from scheduler.story_v1", timeout=5) == 20
        await query.commit()
        await task
        assert told.last.phase == DONE


async def test_tables_that_are_ahead_of_a_restored_log_are_rebuilt_to_its_end(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    await tell(story_log, 20)
    async with live(pool, story_log) as projector:
        await projector.wait_for(20, 10)
    await pool.execute("update scheduler.projection_checkpoint set position = 70")
    async with live(pool, story_log) as projector:
        with pytest.raises(ProjectionStopped):
            await projector.wait_for(21, 10)
        assert (await rebuilt(pool, story_log)).phase == DONE
        await shown(projector, 21)
        assert projector.checkpoint == 21
