"""Questions about the graph, answered at one position."""

from __future__ import annotations

from runyard.event.v1.read_pb2 import ReadOptions
from runyard.lineage.v1.lineage_service_pb2 import ImpactResponse, TraceResponse
from runyard_contracts.answer_size import items_that_fit
from runyard_core.errors import InvalidInput
from runyard_eventlog.moment import Moments
from runyard_lineage.queries import GraphQueries
from runyard_replay.graph.walking import find_vertex, walk_down, walk_up
from runyard_replay.reading.origin_names import name_files


class GraphHandlers:
    """Walks up and down."""

    def __init__(self, queries: GraphQueries, moments: Moments) -> None:
        """Walk these tables, at the moments that they show."""
        self._queries = queries
        self._moments = moments

    async def trace(self, name: str, depth_max: int, read: ReadOptions) -> TraceResponse:
        """Walk from a thing to everything that made it.

        Raises:
            InvalidInput, NotFound, Ambiguous: as ``find_vertex``; a negative depth.
            OutOfRange, DeadlineExceeded: as ``Moments.shown``.
        """
        _check_depth(depth_max)
        position = await self._moments.shown(read)
        root = await find_vertex(self._queries, name, position)
        walk = await walk_up(self._queries, root, depth_max, position)
        name_files(walk)
        edges = items_that_fit(walk.edges)
        truncated = walk.truncated or edges.has_more
        return TraceResponse(root=walk.root, edges=edges.items, truncated=truncated, position=position)

    async def impact(self, name: str, depth_max: int, read: ReadOptions) -> ImpactResponse:
        """Walk from a thing to everything that it touched.

        Raises:
            InvalidInput, NotFound, Ambiguous, OutOfRange, DeadlineExceeded: as ``trace``.
        """
        _check_depth(depth_max)
        position = await self._moments.shown(read)
        root = await find_vertex(self._queries, name, position)
        walk = await walk_down(self._queries, root, depth_max, position)
        name_files(walk)
        edges = items_that_fit(walk.edges)
        truncated = walk.truncated or edges.has_more
        return ImpactResponse(root=walk.root, edges=edges.items, truncated=truncated, position=position)


def _check_depth(depth_max: int) -> None:
    if depth_max < 0:
        raise InvalidInput(f"depth_max is {depth_max}", field_violations={"depth_max": "negative"})
