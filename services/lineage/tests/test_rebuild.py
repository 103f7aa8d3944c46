"""Delete the read model and rebuild it from the log: the same rows, byte for byte."""

from __future__ import annotations

import asyncpg
import pytest

from runyard_eventlog.postgres import PostgresEventLog
from runyard_lineage.projections.edges import EdgesProjection
from runyard_lineage.queries import SCHEMA
from runyard_testkit import Database
from runyard_testkit.read_model import ReadModel

from .story import story
from .yard import append

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("batch_max", [1, 7, 1_000])
async def test_a_rebuilt_graph_has_the_same_rows(database: Database, batch_max: int) -> None:
    events = story()
    async with (
        asyncpg.create_pool(database.url("lineage"), min_size=1, max_size=4) as pool,
        PostgresEventLog(pool) as event_log,
    ):
        model = ReadModel(pool, event_log, EdgesProjection(), SCHEMA)
        # Live: it comes in three parts.
        for start in range(0, len(events), 5):
            await append(database, events[start : start + 5])
            live = await model.projected(batch_max=1_000)
        await model.delete()
        assert await model.projected(batch_max=batch_max) == live
        assert all(live.values())
