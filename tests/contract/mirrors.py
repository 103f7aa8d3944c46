"""A relay that runs as its process does, and waiting for its mirror."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from nats.aio.client import Client

from runyard_contracts import subjects
from runyard_eventlog.mirror import Mirror
from runyard_eventlog.port import EventLog
from runyard_eventlog.relay import CHECK_SECONDS, LEADER_LOCK, Relay, connect_bus
from runyard_testkit import Bus, Database

SECONDS_MAX = 20.0

_RELAY_STANDS_STILL = """
select exists (
  select from pg_locks w join pg_locks l using (pid, database) join pg_database d on d.oid = database
  where d.datname = current_database() and not w.granted and w.relation = 'log.identity'::regclass
    and l.granted and l.locktype = 'advisory' and l.objid = $1)
"""


@asynccontextmanager
async def relaying(
    database: Database, bus: Bus, *, check_seconds: float = CHECK_SECONDS
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a relay as its process does, with the relay's own credentials."""
    client = await connect_bus(bus.url, "relay", bus.password("relay"), "test-relay")
    task = asyncio.ensure_future(Relay(database.url("relay"), client, check_seconds=check_seconds).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


@asynccontextmanager
async def standing_still(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """Hold the running relay before its next look at the mirror, which it begins by asking whose log it is.

    Whatever is done to the mirror meanwhile it sees as one, and nothing half done, which it would repair.
    """
    async with admin.transaction():
        await admin.execute("lock table log.identity in access exclusive mode")
        async with asyncio.timeout(SECONDS_MAX):
            while not await admin.fetchval(_RELAY_STANDS_STILL, LEADER_LOCK):  # noqa: ASYNC110 - the server knows
                await asyncio.sleep(0.01)
        yield


async def mirrored(client: Client, log: EventLog, position: int) -> Mirror:
    """Wait until the mirror has a position; the doorbell says when to look."""
    mirror = Mirror(client, (await log.head()).log_id)
    bell = await client.subscribe(subjects.HEAD)
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            info = await mirror.info()
            if info is not None and info.state.last_seq >= position:
                await bell.unsubscribe()
                return mirror
            try:
                await bell.next_msg(timeout=0.2)
            except TimeoutError:
                continue
