"""A lock that somebody holds for longer than a role waits ends no loop: all go on once it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.errors import Unavailable
from runyard_eventlog import connections
from runyard_eventlog.connections import AWAY, kept_open
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.postgres_stream_index import PostgresStreamIndex
from runyard_eventlog.projector import Projector
from runyard_eventlog.querying import open_pool
from runyard_eventlog.sealing_watch import SealingWatch
from runyard_eventlog.segment_seals import SealingSettings
from runyard_eventlog.stored_log import PostgresStoredLog
from runyard_eventlog.subscriber import follow
from runyard_replay import direct
from runyard_scheduler import tables
from runyard_testkit import Database
from tests.contract.events import DOMAIN, details, fill, run_stream
from tests.contract.stories import Stories, rows_of
from tests.contract.test_projection_operations import offered

pytestmark = pytest.mark.engines

SECONDS_MAX = 20.0
BLOCKED = "lock timeout"


@pytest.fixture
async def pool(database: Database, admin: asyncpg.Connection) -> AsyncIterator[asyncpg.Pool]:
    """Connections of a role that waits for a lock 50 ms, and not 10 s."""
    await admin.execute(f"alter role runyard_scheduler in database {database.name} set lock_timeout = '50ms'")
    async with asyncpg.create_pool(database.url("scheduler"), min_size=1, max_size=8) as opened:
        yield opened


@pytest.fixture
def bell() -> Doorbell:
    return Doorbell()


@pytest.fixture
async def log(pool: asyncpg.Pool, bell: Doorbell) -> AsyncIterator[PostgresEventLog]:
    async with PostgresEventLog(pool, doorbell=bell) as opened:
        yield opened


@asynccontextmanager
async def going(loop: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Let something go on for ever, while the block runs."""
    task = asyncio.ensure_future(loop)
    yield task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def locked(admin: asyncpg.Connection, table: str) -> AsyncIterator[None]:
    async with admin.transaction():
        await admin.execute(f"lock table {table} in access exclusive mode")
        yield


async def told(lines: Callable[[], str], words: str, task: asyncio.Future[Any]) -> None:
    """Wait until a task says something; raises what ended it instead."""
    async with asyncio.timeout(SECONDS_MAX):
        while words not in lines():
            if task.done():
                task.result()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("table", ["log.event", "scheduler.story_v1", "scheduler.projection_checkpoint"])
async def test_a_projector_waits_for_a_table_that_somebody_has_locked(
    pool: asyncpg.Pool,
    log: PostgresEventLog,
    bell: Doorbell,
    admin: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    table: str,
) -> None:
    caplog.set_level("INFO", "runyard_eventlog")
    projector = Projector(pool, log, Stories(), schema="scheduler", doorbell=bell)
    async with going(projector.run()) as task:
        first = await log.append(details(run_stream(), 0, "a"))
        await projector.wait_for(first.position, SECONDS_MAX)
        if table == "log.event":
            async with locked(admin, table):
                bell.ring()
                await told(lambda: caplog.text, BLOCKED, task)
            second = await log.append(details(run_stream(), 0, "b"))
        else:
            async with locked(admin, table):
                second = await log.append(details(run_stream(), 0, "b"))
                await told(lambda: caplog.text, BLOCKED, task)
                assert "works again" not in caplog.text
        await projector.wait_for(second.position, SECONDS_MAX)
        assert len(await rows_of(pool, "scheduler")) == 4  # type: ignore[arg-type]
        await told(lambda: caplog.text, "works again", task)


async def test_who_follows_the_log_waits_for_one_that_somebody_has_locked(
    log: PostgresEventLog, bell: Doorbell, admin: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(log, 2)
    async with aclosing(follow(log, DOMAIN, doorbell=bell)) as pages:
        assert (await anext(pages)).scanned_to == 2
        async with locked(admin, "log.event"):
            coming = asyncio.ensure_future(anext(pages))
            bell.ring()
            await told(lambda: caplog.text, BLOCKED, coming)
        await fill(log, 1)
        assert (await coming).scanned_to == 3


async def test_who_watches_for_segments_to_seal_waits_for_a_log_that_somebody_has_locked(
    pool: asyncpg.Pool, log: PostgresEventLog, admin: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Lane.ValueType] = []

    async def seal(lane: Lane.ValueType) -> None:
        asked.append(lane)

    settings = SealingSettings(events_max=2)
    watch = SealingWatch(log, PostgresStoredLog(pool), seal, settings=settings)
    await fill(log, 2)
    async with locked(admin, "log.event"):
        await watch.look()
        assert (asked, BLOCKED in caplog.text) == ([], True)
    await watch.look()
    assert asked == [DOMAIN]


async def test_a_service_that_starts_waits_for_what_tells_of_its_rebuilds(
    database: Database, admin: asyncpg.Connection
) -> None:
    await admin.execute(f"alter role runyard_scheduler in database {database.name} set lock_timeout = '50ms'")
    async with offered(database) as (operations, _), AsyncExitStack() as beside:
        said = beside.enter_context(capture_logs())
        async with locked(admin, "scheduler.projection_rebuild"):
            again = await beside.enter_async_context(going(operations.run()))
            await told(lambda: str(said), BLOCKED, again)
        await told(lambda: str(said), "works again", again)


async def test_who_asks_for_what_somebody_has_locked_is_told_to_ask_again(
    pool: asyncpg.Pool, database: Database, admin: asyncpg.Connection
) -> None:
    async with offered(database) as (operations, log):
        await tables.prepare(pool)
        questions: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            ("log.event", lambda: log.read(DOMAIN)),
            ("log.event", lambda: PostgresStoredLog(pool).head(DOMAIN)),
            ("log.event", lambda: PostgresStreamIndex(pool).events([1])),
            ("scheduler.projection_rebuild", operations.describe),
            ("scheduler.projection_parked", lambda: operations.requeue("", stream="", limit=1)),
            (tables.RUN_TABLE, lambda: tables.read_world(pool)),
        ]
        for table, ask in questions:
            async with locked(admin, table):
                with pytest.raises(Unavailable, match="lock timeout"):
                    await ask()


async def test_two_who_wait_for_each_other_are_told_to_try_again(database: Database) -> None:
    both_hold = asyncio.Barrier(2)

    async def lock(first: str, second: str) -> None:
        connection = await asyncpg.connect(database.admin_url, server_settings={"deadlock_timeout": "10ms"})
        try:
            async with connection.transaction():
                await connection.execute(f"lock table {first}")
                await both_hold.wait()
                await connection.execute(f"lock table {second}")
        finally:
            await connection.close()

    ends = await asyncio.gather(
        lock("log.identity", "log.command"), lock("log.command", "log.identity"), return_exceptions=True
    )
    (turned_away,) = (end for end in ends if end is not None)
    assert isinstance(turned_away, asyncpg.DeadlockDetectedError)
    assert isinstance(turned_away, AWAY)


async def test_who_is_not_let_in_among_too_many_is_told_to_try_again(
    database: Database, admin: asyncpg.Connection
) -> None:
    await admin.execute(f"alter database {database.name} connection limit 0")
    with pytest.raises(Unavailable, match="too many connections"):
        await PostgresEventLog.connect(database.url("scheduler"))


@pytest.mark.parametrize(
    "opened",
    [
        lambda url: open_pool(url, 2),
        direct.open_pool,
        lambda url: kept_open(asyncpg.create_pool(url, min_size=1, max_size=2)),
    ],
    ids=["service", "direct", "other"],
)
async def test_a_pool_is_closed_although_somebody_keeps_a_connection(
    opened: Callable[[str], AbstractAsyncContextManager[asyncpg.Pool]],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "CLOSE_SECONDS_MAX", 0.2)
    async with asyncio.timeout(SECONDS_MAX), opened(database.url("scheduler")) as pool:
        await pool.acquire()
    with pytest.raises(asyncpg.InterfaceError, match="closed"):
        await pool.fetch("select 1")
