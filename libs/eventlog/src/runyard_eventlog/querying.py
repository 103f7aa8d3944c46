"""How services ask their databases: pools, and queries on read models with a deadline and our errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from runyard_core.errors import Unavailable
from runyard_eventlog.connections import AWAY, Connection, close_pool, leave_as_it_is, nul_in_text

CONNECT_SECONDS_MAX = 10.0
IDLE_SECONDS_MAX = 300.0
QUERY_SECONDS_MAX = 10.0
"""How long a query on a read model may take, waiting for a connection included."""
_NUL_STATE = asyncpg.CharacterNotInRepertoireError.sqlstate


@asynccontextmanager
async def open_pool(
    database_url: str,
    connections_max: int,
    *,
    connections_kept: int = 0,
    command_seconds_max: float | None = None,
) -> AsyncIterator[asyncpg.Pool]:
    """Open a service's connections for as long as the block runs; what uses one leaves nothing behind in it.

    Args:
        database_url: for the service's role.
        connections_max: most of them.
        connections_kept: so many are opened at once, and then none is closed for being idle: the first
            statements on a new one take ten times as long. With 0 they come and go.
        command_seconds_max: how long a statement may take.

    Raises:
        Unavailable: the database does not answer (DATABASE_UNREACHABLE).
    """
    try:
        pool = await asyncpg.create_pool(
            database_url,
            min_size=connections_kept or 1,
            max_size=connections_max,
            max_inactive_connection_lifetime=0.0 if connections_kept else IDLE_SECONDS_MAX,
            timeout=CONNECT_SECONDS_MAX,
            command_timeout=command_seconds_max,
            reset=leave_as_it_is,
        )
    except AWAY as error:
        raise Unavailable(
            f"the database does not answer: {error!r}; check RUNYARD_DATABASE_URL",
            code="DATABASE_UNREACHABLE",
        ) from error
    try:
        yield pool
    finally:
        await close_pool(pool)


@asynccontextmanager
async def lent(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """Lend a connection for what a service does with its read models once: for a caller, or at its start.

    Raises:
        Unavailable: the database does not answer (READ_MODEL_UNREACHABLE).
    """
    try:
        async with pool.acquire() as connection:
            yield connection
    except AWAY as error:
        raise _unreachable(error) from error


async def queried(pool: asyncpg.Pool, statement: str, *arguments: object) -> list[asyncpg.Record]:
    """Give what a query on a read model finds.

    Raises:
        InvalidInput: an argument has a NUL (NUL_IN_TEXT).
        Unavailable: the database does not answer (READ_MODEL_UNREACHABLE).
    """
    try:
        async with asyncio.timeout(QUERY_SECONDS_MAX), pool.acquire() as connection:
            found: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return found
    except asyncpg.CharacterNotInRepertoireError as error:
        raise nul_in_text() from error
    except AWAY as error:
        raise _unreachable(error) from error


@asynccontextmanager
async def query_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection for queries on a read model.

    Raises:
        InvalidInput: an argument has a NUL (NUL_IN_TEXT).
        Unavailable: the database does not answer (READ_MODEL_UNREACHABLE).
    """
    try:
        async with asyncio.timeout(QUERY_SECONDS_MAX), engine.connect() as connection:
            yield connection
    except (DBAPIError, PoolTimeoutError, OSError, TimeoutError) as error:
        if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", "") == _NUL_STATE:
            raise nul_in_text() from error
        # Its own words would name the statement and its arguments.
        raise _unreachable(type(error).__name__) from error


def _unreachable(reason: object) -> Unavailable:
    return Unavailable(
        f"the read model's database does not answer: {reason!r}", code="READ_MODEL_UNREACHABLE"
    )
