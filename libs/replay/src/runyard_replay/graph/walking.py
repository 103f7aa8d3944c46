"""Walks the graph breadth first, one question a level; the same walk over tables and over a log."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runyard.lineage.v1.lineage_service_pb2 import Edge, EdgeRelation, Vertex, VertexKind
from runyard_core.errors import Ambiguous, NotFound
from runyard_replay.graph.facts import EdgeKey
from runyard_replay.graph.names import IdPrefix, NumberedRun, VersionName, WholeId, parse_name
from runyard_replay.graph.rows import EdgeRow, VertexKey, VertexRow

DEPTH_DEFAULT = 32
EDGES_MAX = 10_000

_FILE = VertexKind.VERTEX_KIND_ARTIFACT
_BY_PREFIX = (_FILE, VertexKind.VERTEX_KIND_RUN, VertexKind.VERTEX_KIND_CODE)
_VERSIONS = (VertexKind.VERTEX_KIND_DATASET_VERSION, VertexKind.VERTEX_KIND_MODEL_VERSION)
_ALL = tuple(kind for kind in VertexKind.values() if kind)
_AMBIGUOUS_SHOWN = 5

NextEdges = Callable[[Sequence[VertexKey], int, int], Awaitable[list[EdgeRow]]]
"""Edges of vertices, as of a position, at most so many."""


class Graph(Protocol):
    """Answers what a walk asks, each time as of a position."""

    async def edges_up(self, sources: Sequence[VertexKey], position: int, limit: int) -> list[EdgeRow]:
        """Give the edges that leave vertices, in the order of the vertices."""
        ...

    async def edges_down(self, targets: Sequence[VertexKey], position: int, limit: int) -> list[EdgeRow]:
        """Give the edges that arrive at vertices, in the order of the vertices."""
        ...

    async def vertices(self, keys: Sequence[VertexKey], position: int) -> dict[VertexKey, VertexRow]:
        """Give what is known of vertices."""
        ...

    async def starting_with(
        self, prefix: str, kinds: Sequence[int], position: int, limit: int
    ) -> list[VertexKey]:
        """Find vertices whose ids start with a text."""
        ...

    async def with_id(
        self, vertex_id: str, kinds: Sequence[int], position: int, limit: int
    ) -> list[VertexKey]:
        """Find vertices of any of these kinds by their whole id."""
        ...

    async def run_by_number(self, project: str, number: int | None, position: int) -> str | None:
        """Find a run by its project's counter; the last one without a number."""
        ...


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk found."""

    root: Vertex
    edges: list[Edge]
    truncated: bool


async def find_vertex(graph: Graph, name: str, position: int) -> VertexKey:
    """Find the one vertex that a name means.

    Raises:
        InvalidInput: the text can name nothing.
        NotFound: there is none at that position.
        Ambiguous: there are several.
    """
    match parse_name(name):
        case NumberedRun(project, number):
            run_id = await graph.run_by_number(project, number, position)
            found = [] if run_id is None else [(int(VertexKind.VERTEX_KIND_RUN), run_id)]
        case IdPrefix(text, files_only):
            kinds = (_FILE,) if files_only else _BY_PREFIX
            found = await graph.starting_with(text, kinds, position, _AMBIGUOUS_SHOWN + 1)
            if not found and not files_only:
                found = await graph.with_id(text, _ALL, position, _AMBIGUOUS_SHOWN + 1)
        case VersionName(id_start):
            found = await graph.starting_with(id_start, _VERSIONS, position, _AMBIGUOUS_SHOWN + 1)
        case WholeId(text):
            found = await graph.with_id(text, _ALL, position, _AMBIGUOUS_SHOWN + 1)
    if not found:
        raise NotFound(
            f"the graph has nothing called {name!r} at position {position}", code="VERTEX_NOT_FOUND"
        )
    if len(found) > 1:
        shown = ", ".join(vertex_id for _, vertex_id in found[:_AMBIGUOUS_SHOWN])
        raise Ambiguous(f"{name!r} may mean several: {shown}{', ...' * (len(found) > _AMBIGUOUS_SHOWN)}")
    return found[0]


async def walk_up(graph: Graph, root: VertexKey, depth_max: int, position: int) -> Walk:
    """Walk from a thing to everything that made it."""
    return await _walk(graph, graph.edges_up, root, depth_max, position)


async def walk_down(graph: Graph, root: VertexKey, depth_max: int, position: int) -> Walk:
    """Walk from a thing to everything that it touched."""
    return await _walk(graph, graph.edges_down, root, depth_max, position)


async def _walk(graph: Graph, next_edges: NextEdges, root: VertexKey, depth_max: int, position: int) -> Walk:
    found: dict[EdgeKey, EdgeRow] = {}
    seen = {root}
    level = [root]
    truncated = False
    for _ in range(depth_max or DEPTH_DEFAULT):
        if not level or truncated:
            break
        rows = await next_edges(level, position, EDGES_MAX + 1)
        level = []
        truncated = len(rows) > EDGES_MAX
        for row in rows:
            if row.key in found:
                continue  # An earlier event told it first.
            if len(found) == EDGES_MAX:
                truncated = True
                break
            found[row.key] = row
            for key in ((row.source_kind, row.source_id), (row.target_kind, row.target_id)):
                if key not in seen:
                    seen.add(key)
                    level.append(key)
    if level and not truncated:
        # Cut by depth only when there is something behind the cut.
        truncated = bool(await next_edges(level, position, 1))
    known = await graph.vertices(list(seen), position)
    edges = [_edge_message(row, known) for row in found.values()]
    return Walk(_vertex_message(root, known), edges, truncated)


def _edge_message(row: EdgeRow, known: dict[VertexKey, VertexRow]) -> Edge:
    edge = Edge(
        source=_vertex_message((row.source_kind, row.source_id), known),
        relation=EdgeRelation.ValueType(row.relation),
        target=_vertex_message((row.target_kind, row.target_id), known),
        role=row.role,
        event_id=row.event_id,
        position=row.position,
    )
    edge.occurred_at.FromMicroseconds(row.occurred_at_us)
    return edge


def _vertex_message(key: VertexKey, known: dict[VertexKey, VertexRow]) -> Vertex:
    kind, vertex_id = key
    row = known.get(key)
    return Vertex(
        kind=VertexKind.ValueType(kind),
        id=vertex_id,
        label=row.label if row else "",
        properties=json.loads(row.properties) if row else {},
    )
