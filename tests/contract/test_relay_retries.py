"""What passes does not end the relay: it tries again, says why, and the mirror is exact in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from nats.aio.client import Client

from runyard_eventlog.auditor import audit
from runyard_eventlog.mirror import Mirror
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Bus, Database
from tests.contract.events import fill
from tests.contract.mirrors import SECONDS_MAX, mirrored, relaying

pytestmark = pytest.mark.engines


@pytest.fixture
def log_database(database: Database) -> Database:
    """The log on Postgres alone."""
    return database


@pytest.fixture
async def client(bus: Bus) -> AsyncIterator[Client]:
    """A bus connection that may do anything."""
    async with await bus.connect("test") as opened:
        yield opened


async def _told(relay: asyncio.Task[None], caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Wait until the relay has said why it tries again; raises what ended it instead."""
    async with asyncio.timeout(SECONDS_MAX):
        while words not in caplog.text:
            if relay.done():
                relay.result()
            await asyncio.sleep(0.01)


async def test_a_bus_that_cannot_make_the_mirror_yet_is_asked_again(
    log: PostgresEventLog,
    database: Database,
    bus: Bus,
    client: Client,
    admin: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror = Mirror(client, (await log.head()).log_id)
    # The server can make no folder of that name: it answers as when it still removes one (error 10049).
    (folder,) = (bus.server.spec.data_dir / "jetstream").glob("*/*/streams")
    (folder / mirror.name).touch()
    async with relaying(database, bus) as relay:
        await fill(log, 9)
        # The refused server removes what is in its way.
        await _told(relay, caplog, "err_code=10049")
        await mirrored(client, log, 9)
    verdict = await audit(admin, client)
    assert (verdict.verdict, verdict.mirror_count) == ("SAME", 9)


async def test_a_log_that_somebody_has_locked_for_long_is_waited_for(
    log: PostgresEventLog,
    database: Database,
    bus: Bus,
    client: Client,
    admin: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await admin.execute(f"alter role runyard_relay in database {database.name} set lock_timeout = '50ms'")
    async with relaying(database, bus, check_seconds=0.1) as relay:
        await fill(log, 3)
        await mirrored(client, log, 3)
        async with admin.transaction():
            await admin.execute("lock table log.identity in access exclusive mode")
            await _told(relay, caplog, "lock timeout")
        await fill(log, 3)
        await mirrored(client, log, 6)
