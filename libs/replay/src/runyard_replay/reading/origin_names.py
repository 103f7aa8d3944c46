"""What files are called in an answer: by the origin that belongs to the question, where there is one.

A thing of the graph goes by its newest name anywhere. The same bytes may be written by others, under names
that say nothing to whoever asked about a run, or about something of one project.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import PurePosixPath

from runyard.lineage.v1.lineage_service_pb2 import Edge, EdgeRelation, Vertex, VertexKind
from runyard_replay.graph.identities import KEY_CHARACTERS_MAX
from runyard_replay.graph.things import shortened
from runyard_replay.graph.walking import Walk

_FILE = VertexKind.VERTEX_KIND_ARTIFACT
_RUN = VertexKind.VERTEX_KIND_RUN
_ORIGINS = (EdgeRelation.EDGE_RELATION_WAS_GENERATED_BY, EdgeRelation.EDGE_RELATION_WAS_ATTRIBUTED_TO)


class _Nearness(IntEnum):
    """How much an origin has to do with what was asked about."""

    ON_THE_WAY = 0
    SAME_PROJECT = 1
    ITSELF = 2


def name_files(walk: Walk) -> None:
    """Rename the files of a walk that have an origin nearer to its root than the one that named them.

    Nearest is what the root itself made, then what runs of its project did, the newest of each. A name that
    belongs to nothing on the walk gives way to the newest that does.
    """
    origins: dict[str, list[Edge]] = defaultdict(list)
    for edge in walk.edges:
        if edge.source.kind == _FILE and edge.relation in _ORIGINS and _is_whole(edge.role):
            origins[edge.source.id].append(edge)
    _rename(walk, {sha256: name for sha256, edges in origins.items() if (name := _name(walk.root, edges))})


def _is_whole(path: str) -> bool:
    """Say whether an edge holds all of a path: one that is too long for it has lost its end."""
    return 0 < len(path) < KEY_CHARACTERS_MAX


def _name(root: Vertex, origins: Sequence[Edge]) -> str:
    """Give the name of a file by its nearest origin; empty when it has that of one of them already."""
    nearest = max(origins, key=lambda edge: (_nearness(root, edge), edge.position))
    if _nearness(root, nearest) > _Nearness.ON_THE_WAY:
        return _file_name(nearest)
    return "" if origins[0].source.label in map(_file_name, origins) else _file_name(nearest)


def _nearness(root: Vertex, origin: Edge) -> _Nearness:
    if (origin.target.kind, origin.target.id) == (root.kind, root.id):
        return _Nearness.ITSELF
    project = root.properties.get("project", "")
    if project and origin.target.kind == _RUN and origin.target.properties.get("project", "") == project:
        return _Nearness.SAME_PROJECT
    return _Nearness.ON_THE_WAY


def _file_name(origin: Edge) -> str:
    return shortened(PurePosixPath(origin.role).name)


def _rename(walk: Walk, names: Mapping[str, str]) -> None:
    for vertex in (walk.root, *(end for edge in walk.edges for end in (edge.source, edge.target))):
        if vertex.kind == _FILE and vertex.id in names:
            vertex.label = names[vertex.id]
