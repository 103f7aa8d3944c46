"""Delete the read model and rebuild it from the log: the same rows, byte for byte."""

from __future__ import annotations

import asyncpg
import pytest

from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.readmodel import Build
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


async def test_edges_are_found_by_the_same_indexes_live_and_in_a_rebuild(database: Database) -> None:
    projection = EdgesProjection()
    async with asyncpg.create_pool(database.url("lineage"), min_size=1, max_size=4) as pool:
        for build in (Build.LIVE, Build.NEW):
            store = ProjectionStore(projection, SCHEMA, build)
            async with pool.acquire() as connection:
                await store.create(connection)
            await store.index(pool)
        indexes = await pool.fetch(
            "select indexdef from pg_indexes where schemaname = $1 and tablename like 'edge%'", SCHEMA
        )
    found = sorted(row["indexdef"].partition(" ON ")[2] for row in indexes)
    table = f"{SCHEMA}.edge_v{projection.version}"
    assert found == [
        f'{name} USING btree (hashtextextended({end}_id, {end}_kind), "position")'
        for name in (table, f"{table}_new")
        for end in ("source", "target")
    ]
