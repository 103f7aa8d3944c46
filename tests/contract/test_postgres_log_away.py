"""What the log on Postgres does when connections die and the database goes away."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from runyard_core.errors import Unavailable
from runyard_engines import Postgres, start_ready
from runyard_eventlog.port import AppendCommand
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from tests.contract.events import DOMAIN, details, fill, run_stream

pytestmark = pytest.mark.engines


@pytest.fixture
def log_database(database: Database) -> Database:
    """The log on Postgres alone."""
    return database


async def test_an_appender_whose_connection_dies_goes_on_and_appends_once(
    log: PostgresEventLog, admin: asyncpg.Connection
) -> None:
    stream = run_stream()
    for number in range(40):
        appending = asyncio.ensure_future(log.append(details(stream, number, f"n{number}")))
        if number % 4 == 0:
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where usename = 'runyard_scheduler' and query like '%log.append%'"
            )
        await appending
    history = await log.read_stream(stream)
    written = [event.message.status_detail for event in history]  # type: ignore[attr-defined]
    assert written == [f"n{number}" for number in range(40)]


async def test_a_killed_database_is_waited_for_and_keeps_what_it_acknowledged(
    own_postgres: Postgres, own_database: Database
) -> None:
    async with await PostgresEventLog.connect(own_database.url("scheduler")) as log:
        acknowledged: list[AppendCommand] = []

        async def write(writer: int) -> None:
            # The first one has done its part when the database is killed.
            for _ in range(5 if writer == 0 else 60):
                asked = details(run_stream(), 0, "a", "b")
                while True:
                    try:
                        await log.append(asked)
                    except Unavailable:
                        continue
                    break
                acknowledged.append(asked)

        writers = [asyncio.ensure_future(write(number)) for number in range(8)]
        await writers[0]
        assert own_postgres.process is not None
        own_postgres.process.kill()
        await own_postgres.stop()
        await start_ready(own_postgres)
        await asyncio.gather(*writers)
        page = await log.read(DOMAIN, limit=10_000)
        assert [event.position for event in page.events] == list(range(1, 2 * (5 + 7 * 60) + 1))
        stored = {event.envelope.event_id for event in page.events}
        asked_for = {event.event_id for asked in acknowledged for event in asked.appends[0].events}
        assert stored == asked_for


async def test_a_database_that_stays_away_is_unavailable(
    own_postgres: Postgres, own_database: Database
) -> None:
    asked = details(run_stream(), 0, "a")
    async with (
        asyncpg.create_pool(own_database.url("scheduler"), min_size=1, max_size=2) as pool,
        PostgresEventLog(pool, append_seconds_max=0.5) as log,
    ):
        await own_postgres.stop()
        with pytest.raises(Unavailable):
            await log.append(asked)
        with pytest.raises(Unavailable):
            await log.head()


async def test_a_closed_log_refuses(log: PostgresEventLog) -> None:
    await fill(log, 1)
    await log.close()
    with pytest.raises(Unavailable):
        await log.append(details(run_stream(), 0, "a"))
