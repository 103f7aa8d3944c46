"""A relay that runs as its process does, and waiting for its mirror."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client

from runyard_contracts import subjects
from runyard_eventlog.mirror import Mirror
from runyard_eventlog.port import EventLog
from runyard_eventlog.relay import CHECK_SECONDS, Relay, connect_bus
from runyard_testkit import Bus, Database

SECONDS_MAX = 20.0


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
