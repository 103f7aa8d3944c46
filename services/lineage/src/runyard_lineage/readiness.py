"""At the start: what people will ask, once on each connection, where it takes ten times as long at first."""

from __future__ import annotations

import asyncio
import logging

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from runyard_core.errors import RunyardError
from runyard_eventlog.connections import AWAY
from runyard_lineage.history import HistoryHandlers

SECONDS_MAX = 60.0
_log = logging.getLogger(__name__)


async def get_ready(pool: asyncpg.Pool, connection_count: int, history: HistoryHandlers) -> None:
    """Ask for a run on so many connections, and for the queue.

    Args:
        pool: where ``history`` reads the log.
        connection_count: as many as the pool keeps.
        history: answers.
    """
    try:
        async with asyncio.timeout(SECONDS_MAX):
            await _look_on_each(pool, connection_count, history)
            await history.remember_queue()
    except (RunyardError, *AWAY) as error:
        # A log without events has no moment yet. Whatever else it is, the first question says it.
        _log.info("the log is not looked at yet: %r", error)


async def _look_on_each(pool: asyncpg.Pool, connection_count: int, history: HistoryHandlers) -> None:
    held: list[PoolConnectionProxy[asyncpg.Record]] = []
    try:
        for _ in range(connection_count):
            held.append(await pool.acquire())  # noqa: PERF401 - whoever is stopped meanwhile gives back these
        for _ in range(connection_count):
            # The pool lends first what came back last, so these take turns.
            await pool.release(held.pop(0))
            await history.look_for_a_run()
            held.append(await pool.acquire())
    finally:
        for connection in held:
            await pool.release(connection)
