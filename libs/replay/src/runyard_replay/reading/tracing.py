"""The provenance graph, walked by the log alone: where a thing came from, and what it touched."""

from __future__ import annotations

from runyard.event.v1.envelope_pb2 import Lane
from runyard.lineage.v1.lineage_service_pb2 import (
    ImpactRequest,
    ImpactResponse,
    TraceRequest,
    TraceResponse,
)
from runyard_contracts.registry import event_type_of
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput
from runyard_eventlog.port import EventFilter, EventLog
from runyard_replay.graph.facts import EVENTS
from runyard_replay.graph.gathered import GatheredGraph
from runyard_replay.graph.walking import find_vertex, walk_down, walk_up
from runyard_replay.reading.moments import moment_of
from runyard_replay.reading.origin_names import name_files
from runyard_replay.reading.pages import read_lane
from runyard_replay.views import readable

_TYPES = tuple(event_type_of(event).name for event in EVENTS)


async def trace(event_log: EventLog, request: TraceRequest, clock: Clock) -> TraceResponse:
    """Walk from a thing to everything that made it. Reads all events of the graph, and holds the graph.

    Raises:
        InvalidInput, NotFound, Ambiguous: as ``find_vertex``; a negative depth.
        OutOfRange: as ``moment_of``.
        Unavailable: the log did not answer in time.
    """
    _check_depth(request.depth_max)
    position = (await moment_of(event_log, request.read.as_of, clock)).position
    graph = await _graph_as_of(event_log, position)
    root = await find_vertex(graph, request.name, position)
    walk = await walk_up(graph, root, request.depth_max, position)
    name_files(walk)
    return TraceResponse(root=walk.root, edges=walk.edges, truncated=walk.truncated, position=position)


async def impact(event_log: EventLog, request: ImpactRequest, clock: Clock) -> ImpactResponse:
    """Walk from a thing to everything that it touched.

    Raises:
        InvalidInput, NotFound, Ambiguous, OutOfRange, Unavailable: as ``trace``.
    """
    _check_depth(request.depth_max)
    position = (await moment_of(event_log, request.read.as_of, clock)).position
    graph = await _graph_as_of(event_log, position)
    root = await find_vertex(graph, request.name, position)
    walk = await walk_down(graph, root, request.depth_max, position)
    name_files(walk)
    return ImpactResponse(root=walk.root, edges=walk.edges, truncated=walk.truncated, position=position)


async def _graph_as_of(event_log: EventLog, position: int) -> GatheredGraph:
    graph = GatheredGraph()
    wanted = EventFilter(types=_TYPES)
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=0, to=position, wanted=wanted):
        if readable(event) is not None:
            graph.apply(event)
    return graph


def _check_depth(depth_max: int) -> None:
    if depth_max < 0:
        raise InvalidInput(f"depth_max is {depth_max}", field_violations={"depth_max": "negative"})
