"""What a connection of the pool is, and which errors mean that the database is away or held by somebody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from runyard_core.errors import InvalidInput

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:  # only the stubs are generic
    Connection = asyncpg.Connection | PoolConnectionProxy

CLOSE_SECONDS_MAX = 10.0

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    # What asyncpg says of a connection that was ended between two statements.
    asyncpg.InternalClientError,
    # What others hold for longer than our role waits, or in a circle with us: what we did is undone.
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
    # Whoever was stopped inside a transaction is put out of it, and nobody is let in among too many.
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
)
"""Raised when the database is away, is going down, does not answer in time, or others hold what is needed.

Nothing of the statement or its transaction is kept, and nothing was wrong with it: try again, as long as it
takes in a loop, and say ``Unavailable`` to who asked.
"""


def nul_in_text() -> InvalidInput:
    """Give the refusal of a question that names something by a text with a NUL.

    PostgreSQL cannot store one, so nothing is called so: it raises ``asyncpg.CharacterNotInRepertoireError``.
    """
    return InvalidInput(
        "a text of the question has a NUL character: nothing is called so", code="NUL_IN_TEXT"
    )


async def leave_as_it_is(_: Connection) -> None:
    """Do nothing to a connection that goes back to its pool: the ``reset`` of pools here and in services.

    They leave nothing behind in a session, and asyncpg's own reset is a round trip after every read.
    """


async def close_pool(pool: asyncpg.Pool) -> None:
    """Close a pool's connections; those that are not given back in time are cut off.

    asyncpg waits without end, also for one that it lost count of when the database went away.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await pool.close()


@contextlib.asynccontextmanager
async def kept_open(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Pool]:
    """Keep a new pool's connections open while the block runs, and then close them as ``close_pool`` does."""
    await pool
    try:
        yield pool
    finally:
        await close_pool(pool)
