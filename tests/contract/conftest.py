"""Both implementations of the log, for the conformance suite."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import cast

import asyncpg
import pytest

from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.migrate import ROLES
from runyard_eventlog.port import EventLog
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from tests.contract.rebuild_yard import RingingLog

OpenLog = Callable[[str], Awaitable[EventLog]]
"""Opens the one log of a test as a role: "scheduler"."""


@pytest.fixture(autouse=True)
def sockets_of_interrupted_reconnects(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what the bus client drops: the socket of an attempt that the server's death interrupted."""
    yield
    if "own_nats" in request.fixturenames:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.engines)])
def log_database(request: pytest.FixtureRequest) -> Database | None:
    """The database of the log, or None for the log in memory."""
    return None if request.param == "memory" else cast("Database", request.getfixturevalue("database"))


@pytest.fixture
async def open_log(log_database: Database | None) -> AsyncIterator[OpenLog]:
    if log_database is None:
        shared = MemoryEventLog()

        async def open_memory(role: str) -> EventLog:
            assert f"runyard_{role}" in ROLES
            return shared.acting_as(f"runyard_{role}")

        yield open_memory
        return
    async with AsyncExitStack() as stack:

        async def open_postgres(role: str) -> EventLog:
            return await stack.enter_async_context(await PostgresEventLog.connect(log_database.url(role)))

        yield open_postgres


@pytest.fixture
async def log(open_log: OpenLog) -> EventLog:
    """The scheduler's log."""
    return await open_log("scheduler")


@pytest.fixture
async def metrics_log(open_log: OpenLog) -> EventLog:
    """The same log, as the metrics service sees it."""
    return await open_log("metrics")


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    """Connections of the scheduler's role."""
    async with asyncpg.create_pool(database.url("scheduler"), min_size=1, max_size=12) as opened:
        yield opened


@pytest.fixture
async def admin(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection that may do anything."""
    async with database.connected() as connection:
        yield connection


@pytest.fixture
async def story_log(pool: asyncpg.Pool) -> AsyncIterator[RingingLog]:
    """A log whose projectors hear when it grows."""
    async with RingingLog(pool) as opened:
        yield opened
