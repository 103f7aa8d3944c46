"""Reads the graph's tables at a position of the domain lane."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import asyncpg

from runyard_core.projection import TableSpec
from runyard_eventlog import readmodel
from runyard_eventlog.querying import queried
from runyard_lineage.projections.edges import EdgesProjection
from runyard_lineage.tables import EDGE, RUN_NUMBER, VERTEX
from runyard_replay.graph.rows import EdgeRow, VertexKey, VertexRow

SCHEMA = "lineage"

RowT = TypeVar("RowT")


def _table(spec: TableSpec[Any]) -> str:
    return f"{SCHEMA}.{readmodel.table_name(spec, EdgesProjection.version)}"


_ASKED = readmodel.hash_of("k.id", "k.kind")
# The names are constants of this code; values always go as parameters.
_UP = f"""
select e.* from unnest($1::bigint[], $2::text[]) with ordinality k(kind, id, place)
join {_table(EDGE)} e on {readmodel.hash_of("e.source_id", "e.source_kind")} = {_ASKED}
where (e.source_kind, e.source_id) = (k.kind, k.id) and e.position <= $3
order by k.place, e.position, e.relation, e.target_kind, e.target_id, e.role limit $4
"""  # noqa: S608
_DOWN = f"""
select e.* from unnest($1::bigint[], $2::text[]) with ordinality k(kind, id, place)
join {_table(EDGE)} e on {readmodel.hash_of("e.target_id", "e.target_kind")} = {_ASKED}
where (e.target_kind, e.target_id) = (k.kind, k.id) and e.position <= $3
order by k.place, e.position, e.relation, e.source_kind, e.source_id, e.role limit $4
"""  # noqa: S608
_VERTICES = f"""
select v.* from unnest($1::bigint[], $2::text[]) k(kind, id) cross join lateral (
  select * from {_table(VERTEX)} v where (v.kind, v.vertex_id) = (k.kind, k.id) and v.position <= $3
  order by v.position desc limit 1) v
"""  # noqa: S608
_BY_PREFIX = f"""
select distinct kind, vertex_id from {_table(VERTEX)}
where kind = any($1::bigint[]) and vertex_id like $2 and position <= $3 order by kind, vertex_id limit $4
"""  # noqa: S608
_BY_ID = f"""
select distinct kind, vertex_id from {_table(VERTEX)}
where kind = any($1::bigint[]) and vertex_id = $2 and position <= $3 order by kind limit $4
"""  # noqa: S608
_RUN_BY_NUMBER = f"""
select run_id from {_table(RUN_NUMBER)}
where project = $1 and ($2::bigint is null or number = $2) and position <= $3
order by number desc limit 1
"""  # noqa: S608


class GraphQueries:
    """Questions to the tables; any number of tasks may ask."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Use connections of a role that may read the schema."""
        self._pool = pool

    async def edges_up(self, sources: Sequence[VertexKey], position: int, limit: int) -> list[EdgeRow]:
        """Give the edges that leave vertices, in the order of the vertices."""
        return await self._edges(_UP, sources, position, limit)

    async def edges_down(self, targets: Sequence[VertexKey], position: int, limit: int) -> list[EdgeRow]:
        """Give the edges that arrive at vertices, in the order of the vertices."""
        return await self._edges(_DOWN, targets, position, limit)

    async def vertices(self, keys: Sequence[VertexKey], position: int) -> dict[VertexKey, VertexRow]:
        """Give what is known of vertices."""
        rows = await self._fetch(
            _VERTICES, [kind for kind, _ in keys], [vertex_id for _, vertex_id in keys], position
        )
        return {(row["kind"], row["vertex_id"]): _row(VERTEX, row) for row in rows}

    async def starting_with(
        self, prefix: str, kinds: Sequence[int], position: int, limit: int
    ) -> list[VertexKey]:
        """Find vertices whose ids start with a text."""
        literal = re.sub(r"([\\_%])", r"\\\1", prefix)
        rows = await self._fetch(_BY_PREFIX, list(kinds), f"{literal}%", position, limit)
        return [(row["kind"], row["vertex_id"]) for row in rows]

    async def with_id(
        self, vertex_id: str, kinds: Sequence[int], position: int, limit: int
    ) -> list[VertexKey]:
        """Find vertices of any of these kinds by their whole id."""
        rows = await self._fetch(_BY_ID, list(kinds), vertex_id, position, limit)
        return [(row["kind"], row["vertex_id"]) for row in rows]

    async def run_by_number(self, project: str, number: int | None, position: int) -> str | None:
        """Find a run by its project's counter; the last one without a number."""
        rows = await self._fetch(_RUN_BY_NUMBER, project, number, position)
        return rows[0]["run_id"] if rows else None

    async def _edges(
        self, statement: str, keys: Sequence[VertexKey], position: int, limit: int
    ) -> list[EdgeRow]:
        kinds, ids = [kind for kind, _ in keys], [vertex_id for _, vertex_id in keys]
        return [_row(EDGE, row) for row in await self._fetch(statement, kinds, ids, position, limit)]

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        return await queried(self._pool, statement, *arguments)


def _row(spec: TableSpec[RowT], record: asyncpg.Record) -> RowT:
    return cast("RowT", readmodel.row_from(spec, dict(record)))
