"""Operations on a service's read models: workers that are killed go on, refusals say what to do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from runyard.projection.v1 import types_pb2 as pb
from runyard_contracts.envelope import parse_actor
from runyard_contracts.ids import uuid7
from runyard_core.errors import InvalidInput, NotFound, Rejected
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_servicekit.auth import Caller, set_current_caller
from runyard_servicekit.projection_operations import ProjectionOperations
from runyard_servicekit.settings import ServiceSettings
from runyard_testkit import Database
from tests.contract.events import details, run_stream
from tests.contract.stories import Stories

pytestmark = pytest.mark.engines

EVENTS = 20_000


@asynccontextmanager
async def offered(database: Database) -> AsyncIterator[tuple[ProjectionOperations, PostgresEventLog]]:
    """A service with one read model, as its main wires it."""
    bell = Doorbell()
    url = database.url("scheduler")
    settings = ServiceSettings(tokens_file=Path(os.devnull), database_url=SecretStr(url))
    set_current_caller(Caller(parse_actor("user:alice"), frozenset({"client"})))
    async with (
        asyncpg.create_pool(url, min_size=1, max_size=8) as pool,
        PostgresEventLog(pool, doorbell=bell) as log,
        asyncio.TaskGroup() as tasks,
    ):
        projector = Projector(pool, log, Stories(), schema="scheduler", doorbell=bell)
        operations = ProjectionOperations("scheduler", [projector], pool, log, settings)
        running = [tasks.create_task(projector.run())]
        await projector.caught_up()
        running.append(tasks.create_task(operations.run()))
        yield operations, log
        for task in running:
            task.cancel()


async def fill(log: PostgresEventLog) -> None:
    for _ in range(EVENTS // 1_000):
        await log.append(details(run_stream(), 0, *(f"word {number % 50}" for number in range(1_000))))


async def test_a_worker_killed_with_9_is_started_again_and_goes_on_from_its_checkpoint(
    database: Database,
) -> None:
    async with offered(database) as (operations, log):
        await fill(log)
        await operations.find("").wait_for(EVENTS, 30)
        rebuild_id = uuid7()
        killed_at = 0
        async with aclosing(operations.rebuild("stories", rebuild_id, accepts_differences=False)) as steps:
            async for progress in steps:
                if progress.position and not killed_at:
                    assert progress.target_position == EVENTS
                    job = operations.running_rebuild("stories")
                    assert job is not None
                    os.kill(job.worker_pid, signal.SIGKILL)
                    killed_at = progress.position
        assert progress.phase == pb.REBUILD_PHASE_DONE
        assert 0 < killed_at <= progress.resumed_from_position < EVENTS
        assert [table.rebuilt_row_count for table in progress.tables] == [EVENTS, EVENTS]
        # The same request again is answered from the log, and starts nothing.
        again = [each async for each in operations.rebuild("stories", rebuild_id, accepts_differences=False)]
        assert [(each.phase, each.event_position) for each in again] == [
            (pb.REBUILD_PHASE_DONE, progress.event_position)
        ]
        with pytest.raises(Rejected) as refused:
            await anext(operations.rebuild("stories", uuid7(), accepts_differences=False))
        assert refused.value.code == "OLD_BUILD_KEPT"
        (described,) = await operations.describe()
        assert [build.kind for build in described.builds] == [pb.BUILD_KIND_LIVE, pb.BUILD_KIND_OLD]
        assert await operations.drop("", pb.BUILD_KIND_OLD) == ["story_v1_old", "word_v1_old"]
        verified = [each async for each in operations.verify("stories")]
        assert verified[-1].phase == pb.REBUILD_PHASE_DONE


async def test_a_rebuild_goes_on_when_its_service_comes_back(database: Database) -> None:
    async with offered(database) as (operations, log):
        await fill(log)
        await operations.find("").wait_for(EVENTS, 30)
        async with aclosing(operations.rebuild("", uuid7(), accepts_differences=False)) as steps:
            async for progress in steps:
                if progress.position:
                    break
    async with offered(database) as (operations, log):
        # Asking again joins what goes on by itself.
        steps_left = [each async for each in operations.rebuild("", uuid7(), accepts_differences=False)]
        assert steps_left[-1].phase == pb.REBUILD_PHASE_DONE
        assert steps_left[-1].resumed_from_position > 0


async def test_unknown_read_models_and_builds_are_refused_with_a_code(database: Database) -> None:
    async with offered(database) as (operations, _):
        with pytest.raises(NotFound) as unknown:
            operations.find("stores")
        assert unknown.value.code == "PROJECTION_NOT_FOUND"
        assert "it has: stories" in unknown.value.message
        with pytest.raises(InvalidInput) as live:
            await operations.drop("stories", pb.BUILD_KIND_LIVE)
        assert live.value.code == "BAD_BUILD_KIND"
        with pytest.raises(NotFound) as letter:
            await operations.dead_letter("stories", 1)
        assert letter.value.code == "DEAD_LETTER_NOT_FOUND"
        with pytest.raises(InvalidInput):
            await operations.requeue("stories", stream="", limit=-1)
        assert await operations.drop("stories", pb.BUILD_KIND_OLD) == []
