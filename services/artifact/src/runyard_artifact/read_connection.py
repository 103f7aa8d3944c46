"""A connection to the read model's database for one query, with a deadline and our errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from runyard_core.errors import Unavailable

SCHEMA = "artifact"
QUERY_SECONDS_MAX = 10.0


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection.

    Raises:
        Unavailable: the database does not answer (READ_MODEL_UNREACHABLE).
    """
    try:
        async with asyncio.timeout(QUERY_SECONDS_MAX), engine.connect() as connection:
            yield connection
    except (DBAPIError, PoolTimeoutError, OSError, TimeoutError) as error:
        raise Unavailable(
            f"the read model's database does not answer: {type(error).__name__}",
            code="READ_MODEL_UNREACHABLE",
        ) from error
