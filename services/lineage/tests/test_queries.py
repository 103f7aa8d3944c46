"""Walks go by the indexes of hashes, and find what has these very ids."""

from __future__ import annotations

import asyncpg
import pytest

from runyard_eventlog import readmodel
from runyard_eventlog.projection_store import ProjectionStore
from runyard_lineage import queries
from runyard_lineage.projections.edges import EdgesProjection
from runyard_lineage.queries import SCHEMA, GraphQueries
from runyard_lineage.tables import EDGE
from runyard_replay.graph.things import ARTIFACT, RUN
from runyard_testkit import Database

pytestmark = pytest.mark.engines

EDGES = 20_000
_FILL = f"""
insert into {SCHEMA}.{readmodel.table_name(EDGE, EdgesProjection.version)}
  (source_kind, source_id, relation, target_kind, target_id, role, position, event_id, occurred_at_us)
select {RUN}, 'run-' || number % 5000, 1, {ARTIFACT}, 'file-' || number % 7, '', number, 'e', 0
from generate_series(1, {EDGES}) number
"""


async def test_a_walk_reads_the_edges_of_its_things_alone(database: Database) -> None:
    async with asyncpg.create_pool(database.url("lineage"), min_size=1, max_size=2) as pool:
        async with pool.acquire() as connection:
            await ProjectionStore(EdgesProjection(), SCHEMA).create(connection)
            await connection.execute(_FILL)
            await connection.execute(
                f"analyze {SCHEMA}.{readmodel.table_name(EDGE, EdgesProjection.version)}"
            )
            for statement, index in ((queries._UP, "by_key"), (queries._DOWN, "by_1")):
                lines = await connection.fetch(f"explain {statement}", [RUN], ["run-3"], EDGES, 100)
                plan = "\n".join(line[0] for line in lines)
                assert f"edge_v{EdgesProjection.version}_{index}" in plan
                assert "Seq Scan" not in plan
        graph = GraphQueries(pool)
        up = await graph.edges_up([(RUN, "run-3"), (RUN, "run-4"), (ARTIFACT, "run-3")], EDGES, 100)
        assert [edge.position for edge in up] == [3, 5003, 10003, 15003, 4, 5004, 10004, 15004]
        down = await graph.edges_down([(ARTIFACT, "file-5")], 30, 100)
        assert [edge.position for edge in down] == [5, 12, 19, 26]
