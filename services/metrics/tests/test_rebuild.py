"""Delete the read model and rebuild it from the log: the same rows, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard_eventlog import readmodel
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_metrics.ingest import Ingest
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.queries import SCHEMA
from runyard_testkit import Database

from .test_ingest import SPOOLS, Wire, message
from .yard import DEADLINE_SECONDS

TABLES = [readmodel.table_name(spec, TelemetryProjection.version) for spec in TelemetryProjection.tables]


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database.url("metrics"), min_size=1, max_size=4) as pool:
        yield pool


async def _projected(pool: asyncpg.Pool, event_log: PostgresEventLog, batch_max: int) -> dict[str, bytes]:
    """Project everything; gives each table as PostgreSQL writes it out."""
    projector = Projector(
        pool,
        event_log,
        TelemetryProjection(),
        schema=SCHEMA,
        lane=Lane.LANE_TELEMETRY,
        batch_max=batch_max,
    )
    running = asyncio.create_task(projector.run())
    try:
        await projector.wait_for((await event_log.head()).telemetry_position, DEADLINE_SECONDS)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    written_out = {}
    for table in TABLES:
        rows = await pool.fetch(f"select t::text as line from {SCHEMA}.{table} t order by t::text")
        written_out[table] = "\n".join(row["line"] for row in rows).encode()
    return written_out


@pytest.mark.parametrize("batch_max", [1, 7, 1_000])
async def test_rebuilt_tables_have_the_same_rows(pool: asyncpg.Pool, batch_max: int) -> None:
    async with PostgresEventLog(pool) as event_log:
        ingest, wire = Ingest(event_log, Wire()), Wire()
        for first in (1, 6, 11):
            # Live: it comes in three parts, of spools whose lines interleave and repeat.
            batches = [message(wire, spool, first + i) for i in range(5) for spool in SPOOLS]
            await ingest.handle(batches)
            live = await _projected(pool, event_log, 1_000)
        for table in TABLES:
            await pool.execute(f"drop table {SCHEMA}.{table} cascade")
        await pool.execute(f"delete from {SCHEMA}.projection_checkpoint")
        assert await _projected(pool, event_log, batch_max) == live
        assert live["log_chunk_v2"]
        assert live["metric_series_v2"]
