"""Logs that a stateful test drives, and what may happen to each: its client or its server is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import (
    EventLog,
)
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database

DOMAIN, TELEMETRY = Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY
SECONDS_MAX = 20.0


class Yard:
    """One log as a client process has it, and what may happen to both."""

    can_crash = False

    async def open(self) -> None:
        """Start a client."""

    async def close(self) -> None:
        """End the client in order."""

    def log(self, lane: Lane.ValueType) -> EventLog:
        """Give the log of the role that writes a lane."""
        raise NotImplementedError

    async def kill_client(self) -> None:
        """End the client as a kill does: nothing is finished."""

    async def crash_server(self) -> None:
        """Kill the server and wait until it has recovered."""


class MemoryYard(Yard):
    """The log in memory: its client and its server are one process, so only a caller can go away."""

    def __init__(self) -> None:
        self._shared = MemoryEventLog()

    def log(self, lane: Lane.ValueType) -> EventLog:
        return self._shared.acting_as("runyard_scheduler" if lane == DOMAIN else "runyard_metrics")


class PostgresYard(Yard):
    """The log on PostgreSQL, with two roles of one client."""

    can_crash = True

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pools: dict[Lane.ValueType, asyncpg.Pool] = {}
        self._logs: dict[Lane.ValueType, PostgresEventLog] = {}

    async def open(self) -> None:
        for lane, role in ((DOMAIN, "scheduler"), (TELEMETRY, "metrics")):
            self._pools[lane] = await asyncpg.create_pool(self._database.url(role), min_size=1, max_size=4)
            self._logs[lane] = PostgresEventLog(self._pools[lane], owns_pool=True)

    async def close(self) -> None:
        for log in self._logs.values():
            await log.close()

    def log(self, lane: Lane.ValueType) -> EventLog:
        return self._logs[lane]

    async def kill_client(self) -> None:
        for pool in self._pools.values():
            pool.terminate()
        for log in self._logs.values():
            await log.close()

    async def crash_server(self) -> None:
        connection = await asyncpg.connect(self._database.admin_url)
        # The server ends all others and replays its log when one of its processes dies so.
        os.kill(await connection.fetchval("select pg_backend_pid()"), signal.SIGKILL)
        with suppress(asyncpg.PostgresError, OSError):
            while True:
                await connection.execute("select pg_sleep(0.01)")
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                with suppress(asyncpg.PostgresError, OSError):
                    await (await asyncpg.connect(self._database.admin_url)).close()
                    return
                await asyncio.sleep(0.02)
