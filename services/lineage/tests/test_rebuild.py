"""Delete the read model and rebuild it from the log: the same rows, byte for byte."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_lineage.projections.edges import EdgesProjection
from runyard_lineage.queries import SCHEMA
from runyard_testkit import Database

from .story import story
from .yard import DEADLINE_SECONDS, append

TABLES = ("edge_v3", "run_number_v3", "vertex_v3")


async def _projected(database: Database, position: int, batch_max: int) -> dict[str, bytes]:
    """Project everything; gives each table as PostgreSQL writes it out."""
    async with (
        asyncpg.create_pool(database.url("lineage"), min_size=1, max_size=4) as pool,
        PostgresEventLog(pool) as event_log,
    ):
        projector = Projector(pool, event_log, EdgesProjection(), schema=SCHEMA, batch_max=batch_max)
        running = asyncio.create_task(projector.run())
        try:
            await projector.wait_for(position, DEADLINE_SECONDS)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return {table: await _written_out(pool, table) for table in TABLES}


async def _written_out(pool: asyncpg.Pool, table: str) -> bytes:
    rows = await pool.fetch(f"select t::text as line from {SCHEMA}.{table} t order by t::text")
    return "\n".join(row["line"] for row in rows).encode()


async def _deleted(database: Database) -> None:
    connection = await asyncpg.connect(database.url("lineage"))
    try:
        for table in TABLES:
            await connection.execute(f"drop table {SCHEMA}.{table} cascade")
        await connection.execute(f"delete from {SCHEMA}.projection_checkpoint")
    finally:
        await connection.close()


@pytest.mark.parametrize("batch_max", [1, 7, 1_000])
async def test_a_rebuilt_graph_has_the_same_rows(database: Database, batch_max: int) -> None:
    events = story()
    # Live: it comes in three parts.
    for start in range(0, len(events), 5):
        position = await append(database, events[start : start + 5])
        live = await _projected(database, position, 1_000)
    await _deleted(database)
    assert await _projected(database, position, batch_max) == live
    assert all(live.values())
