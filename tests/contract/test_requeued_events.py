"""Parked events that are applied again, and projectors that had stopped because of them."""

from __future__ import annotations

import asyncpg
import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import CommandId, uuid7
from runyard_core.clock import SystemClock
from runyard_core.errors import Rejected
from runyard_eventlog.dead_letters import DeadLetters
from runyard_eventlog.disputes import dispute
from runyard_eventlog.failure_limit import ProjectionStopped
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from tests.contract.events import context, details, run_stream
from tests.contract.rebuild_yard import DONE, SCHEMA, Mended, RingingLog, live, rebuilder, rebuilt, shown
from tests.contract.stories import POISON, Stories

pytestmark = pytest.mark.engines


async def test_requeued_events_are_applied_in_order_and_the_projector_goes_on(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    bad = run_stream()
    await story_log.append(details(bad, 0, "a", POISON, "b", "c"))
    letters = DeadLetters(pool, story_log, Stories(), schema=SCHEMA, lane=Lane.LANE_DOMAIN)
    async with live(pool, story_log) as projector:
        await projector.wait_for(4, 10)
        again = await letters.requeue()
        assert [(letter.position, letter.reason) for letter in again.failed] == [(2, "APPLY_FAILED")]
        assert (again.applied, again.remaining_count) == ([], 3)
    letters = DeadLetters(pool, story_log, Mended(), schema=SCHEMA, lane=Lane.LANE_DOMAIN)
    async with live(pool, story_log, Mended()) as projector:
        await projector.wait_for(4, 10)
        done = await letters.requeue(limit=2)
        assert [letter.position for letter in done.applied] == [2, 3]
        answer = await story_log.append(details(bad, 4, "d"))
        await projector.wait_for(answer.position, 10)
        # One is still parked, so what comes after it waits behind it.
        assert [letter.position for letter in await letters.page(after=0, limit=10)] == [4, 5]
        assert (await letters.requeue()).remaining_count == 0
        answer = await story_log.append(details(bad, 5, "e"))
        await projector.wait_for(answer.position, 10)
        assert projector.lag.parked_count == 0
        assert await pool.fetchval("select words from scheduler.story") == ["c", "d", "e"]
        assert await pool.fetchval("select count from scheduler.story") == 6
        work, told = rebuilder(pool, story_log, Mended())
        await work.verify()
        assert told.last.phase == DONE
        nothing = await letters.requeue()
        assert (nothing.applied, nothing.failed) == ([], [])


async def test_an_event_whose_place_is_in_others_past_is_not_requeued(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    await story_log.append(details(run_stream(), 0, POISON))
    await story_log.append(details(run_stream(), 0, "medicine"))
    async with live(pool, story_log) as projector:
        await projector.wait_for(2, 10)
    letters = DeadLetters(pool, story_log, Mended(), schema=SCHEMA, lane=Lane.LANE_DOMAIN)
    with pytest.raises(Rejected) as caught:
        await letters.requeue()
    assert caught.value.code == "REBUILD_NEEDED"
    assert len(await letters.page(after=0, limit=10)) == 1
    async with live(pool, story_log, Mended()) as projector:
        assert (await rebuilt(pool, story_log, Mended(), accepts=True)).phase == DONE
        assert await pool.fetchval("select count from scheduler.word") == 2
    assert await letters.page(after=0, limit=10) == []


async def test_a_stopped_projector_goes_on_after_a_rebuild_without_what_was_disputed(
    pool: asyncpg.Pool, story_log: RingingLog, database: Database
) -> None:
    poisoned = [run_stream() for _ in range(22)]
    for run in poisoned:
        await story_log.append(details(run, 0, POISON))
    async with live(pool, story_log) as projector:
        with pytest.raises(ProjectionStopped):
            await projector.wait_for(22, 10)
        async with await PostgresEventLog.connect(database.url("lineage")) as own:
            for run in poisoned:
                (event,) = await story_log.read_stream(run)
                await dispute(
                    own,
                    event.envelope.event_id,
                    "poisoned",
                    context(),
                    withdraw=False,
                    command_id=CommandId(uuid7()),
                    now=SystemClock().now(),
                )
        answer = await story_log.append(details(run_stream(), 0, "fine"))
        assert (await rebuilt(pool, story_log)).phase == DONE
        await shown(projector, answer.position)
        assert projector.stopped is None
        assert await pool.fetchval("select words from scheduler.story") == ["fine"]
