"""What the service does at its start, so that the first questions are answered as fast as later ones."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import GetStateAsOfRequest, Subject, SubjectKind
from runyard_core.clock import SystemClock
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.querying import open_pool
from runyard_lineage.history import HistoryHandlers
from runyard_lineage.readiness import get_ready
from runyard_testkit import Database

from .story import TRAIN, story
from .yard import append

pytestmark = pytest.mark.engines

KEPT = 3


async def prepared(pool: asyncpg.Pool) -> dict[int, set[str]]:
    """Give the statements that the connections of a pool have seen."""
    connections = [await pool.acquire() for _ in range(KEPT)]
    seen = {}
    for connection in connections:
        rows = await connection.fetch("select statement from pg_prepared_statements")
        seen[connection.get_server_pid()] = {row["statement"] for row in rows}
        await pool.release(connection)
    return seen


async def test_no_question_about_a_run_is_the_first_on_its_connection(database: Database) -> None:
    position = await append(database, story())
    async with (
        open_pool(database.url("lineage"), KEPT, connections_kept=KEPT) as pool,
        open_event_log(pool) as event_log,
    ):
        handlers = HistoryHandlers(event_log, Doorbell(), SystemClock())
        await prepared(pool)
        await get_ready(pool, KEPT, handlers)
        before = await prepared(pool)
        about = Subject(kind=SubjectKind.SUBJECT_KIND_RUN, name=TRAIN)
        question = GetStateAsOfRequest(as_of=AsOf(position=position), subject=about)
        answers = await asyncio.gather(*(handlers.state_as_of(question) for _ in range(KEPT)))
        assert {answer.run.run_id for answer in answers} == {TRAIN}
        assert await prepared(pool) == before


async def test_an_empty_log_is_no_reason_not_to_start(database: Database) -> None:
    async with (
        open_pool(database.url("lineage"), KEPT, connections_kept=KEPT) as pool,
        open_event_log(pool) as event_log,
    ):
        await get_ready(pool, KEPT, HistoryHandlers(event_log, Doorbell(), SystemClock()))


async def test_a_service_that_is_stopped_meanwhile_keeps_no_connection(database: Database) -> None:
    async with open_pool(database.url("lineage"), KEPT) as pool, open_event_log(pool) as event_log:
        handlers = HistoryHandlers(event_log, Doorbell(), SystemClock())
        async with pool.acquire():
            # It waits for the last one, which somebody else has.
            getting_ready = asyncio.create_task(get_ready(pool, KEPT, handlers))
            while pool.get_idle_size() or pool.get_size() < KEPT:  # noqa: ASYNC110 - a pool tells nobody
                await asyncio.sleep(0)
            getting_ready.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getting_ready
        async with asyncio.timeout(40):
            await pool.close()
