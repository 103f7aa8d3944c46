"""A rebuild beside a live read model that is not what the log says: damage, disputes, verification."""

from __future__ import annotations

import hashlib
import json

import asyncpg
import pytest

from runyard.projection.v1.events_pb2 import ProjectionRebuilt
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_core.clock import SystemClock
from runyard_core.errors import Rejected
from runyard_eventlog.disputes import dispute
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from tests.contract.events import context, details, run_stream
from tests.contract.rebuild_yard import DIFFERS, DONE, SCHEMA, RingingLog, live, rebuilder, rebuilt, tell
from tests.contract.stories import rows_of

pytestmark = pytest.mark.engines


async def test_a_damaged_live_table_is_named_row_by_row_and_replaced_when_accepted(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    _, streams = await tell(story_log, 50)
    async with live(pool, story_log) as projector:
        await projector.wait_for(50, 10)
        right = await rows_of(pool, SCHEMA)  # type: ignore[arg-type]
        run_id = streams[1].removeprefix("run-")
        await pool.execute("update scheduler.story_v1 set count = 99 where position = 13")
        await pool.execute("delete from scheduler.word_v1 where position = 50")
        told = await rebuilt(pool, story_log)
        assert told.phase == DIFFERS
        changed, dropped = told.differences
        assert (changed.table, changed.position) == ("story", 13)
        assert changed.key_json == f'{{"run_id": "{run_id}"}}'
        assert '"count": 99' in changed.live_row_json
        assert '"count": 3' in changed.rebuilt_row_json
        assert (dropped.table, dropped.position, dropped.live_row_json) == ("word", 50, "")
        assert await pool.fetchval("select max(count) from scheduler.story_v1") == 99
        told = await rebuilt(pool, story_log, accepts=True)
        assert told.phase == DONE
        assert await rows_of(pool, SCHEMA) == right  # type: ignore[arg-type]
    (event,) = await story_log.read_stream(stream_name("projection", "scheduler.stories"))
    assert isinstance(event.message, ProjectionRebuilt)
    assert event.message.differences_accepted


async def test_a_verification_finds_a_changed_row_and_leaves_nothing_behind(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    await tell(story_log, 50)
    async with live(pool, story_log) as projector:
        await projector.wait_for(50, 10)
        work, told = rebuilder(pool, story_log)
        await work.verify()
        assert told.last.phase == DONE
        assert [table.rebuilt_row_count for table in told.last.tables] == [50, 50]
        await pool.execute("update scheduler.word_v1 set count = 0 where position = 7")
        work, told = rebuilder(pool, story_log)
        await work.verify()
        assert told.last.phase == DIFFERS
        (difference,) = told.last.differences
        assert (difference.table, difference.position) == ("word", 7)
    assert await pool.fetchval("select count(*) from pg_tables where tablename ~ '_check$'") == 0
    assert await story_log.read_stream(stream_name("projection", "scheduler.stories")) == []


async def test_a_disputed_event_is_left_out_by_a_rebuild_and_only_then(
    pool: asyncpg.Pool, story_log: RingingLog, database: Database
) -> None:
    run = run_stream()
    await story_log.append(details(run, 0, "a", "b", "c"))
    disputed = (await story_log.read_stream(run))[1]
    async with (
        live(pool, story_log) as projector,
        await PostgresEventLog.connect(database.url("lineage")) as own,
    ):
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
        story_log.bell.ring()
        with pytest.raises(Rejected):
            await say("again")
        assert await pool.fetchval("select words from scheduler.story") == ["a", "b", "c"]
        work, told = rebuilder(pool, story_log)
        await work.verify()
        # The live tables were begun before the dispute: they are as they should be, and that is said.
        assert (told.last.phase, told.last.later_dispute_count) == (DONE, 1)
        first = await rebuilt(pool, story_log)
        assert (first.phase, first.later_dispute_count) == (DIFFERS, 0)
        await say("it was right", withdraw=True)
        assert (await rebuilt(pool, story_log)).later_dispute_count == 1
        await say("it was not")
        second = await rebuilt(pool, story_log, accepts=True)
        assert (second.phase, second.later_dispute_count) == (DONE, 0)
        assert await pool.fetchval("select words from scheduler.story") == ["a", "c"]
        # What is live now was built without it, and is proven without it.
        work, told = rebuilder(pool, story_log)
        await work.verify()
        assert told.last.phase == DONE


async def test_large_rows_that_differ_are_shown_by_their_beginning_and_their_hash(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    await tell(story_log, 50)
    async with live(pool, story_log) as projector:
        await projector.wait_for(50, 10)
        # As large as a row of log lines may be; all of twenty would not go through a worker's pipe.
        await pool.execute(
            "update scheduler.story_v1 set chain = decode(repeat('ab', 200000), 'hex'), words = "
            "array_fill('ä'::text, array[10000])"
        )
        work, told = rebuilder(pool, story_log)
        await work.verify()
    assert told.last.phase == DIFFERS
    assert len(told.last.differences) == 20
    assert told.last.ByteSize() < 200_000
    row = json.loads(told.last.differences[0].live_row_json)
    assert row["chain"].startswith("\\xabab")
    written = hashlib.md5(b"\\x" + b"ab" * 200_000, usedforsecurity=False).hexdigest()
    assert row["chain"].endswith(f"... (400002 characters, MD5 {written})")
    assert row["words"].startswith('["ä", "ä"')
    assert (row["position"], row["count"]) == (1, 1)
