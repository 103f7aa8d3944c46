"""Delete the read model and rebuild it from the log: the same rows, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard_eventlog.postgres import PostgresEventLog
from runyard_metrics.ingest import Ingest
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.queries import SCHEMA
from runyard_testkit import Database
from runyard_testkit.read_model import ReadModel

from .test_ingest import SPOOLS, Wire, message

pytestmark = pytest.mark.engines


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database.url("metrics"), min_size=1, max_size=4) as pool:
        yield pool


@pytest.mark.parametrize("batch_max", [1, 7, 1_000])
async def test_rebuilt_tables_have_the_same_rows(pool: asyncpg.Pool, batch_max: int) -> None:
    async with PostgresEventLog(pool) as event_log:
        ingest, wire = Ingest(event_log, Wire()), Wire()
        model = ReadModel(pool, event_log, TelemetryProjection(), SCHEMA, Lane.LANE_TELEMETRY)
        for first in (1, 6, 11):
            # Live: it comes in three parts, of spools whose lines interleave and repeat.
            batches = [message(wire, spool, first + i) for i in range(5) for spool in SPOOLS]
            await ingest.handle(batches)
            live = await model.projected(batch_max=1_000)
        await model.delete()
        assert await model.projected(batch_max=batch_max) == live
        assert live["log_chunk"]
        assert live["metric_series"]
