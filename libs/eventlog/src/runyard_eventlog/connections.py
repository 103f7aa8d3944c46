"""What a connection of the pool is, and which errors mean that the database is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
from asyncpg.pool import PoolConnectionProxy

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:  # only the stubs are generic
    Connection = asyncpg.Connection | PoolConnectionProxy

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    # What asyncpg says of a connection that was ended between two statements.
    asyncpg.InternalClientError,
)
"""Raised when the database is away, is going down, or does not answer in time: try again."""


async def leave_as_it_is(_: Connection) -> None:
    """Do nothing to a connection that goes back to its pool: the ``reset`` of pools here and in services.

    They leave nothing behind in a session, and asyncpg's own reset is a round trip after every read.
    """
