"""The graph's tables. Append-only: one row for each (key, position), never updated.

Every edge stands in two tables, led by its source for walks up and by its target for walks down: an
append-only table has one index, its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from runyard_core.projection import TableSpec


@dataclass(frozen=True, slots=True)
class VertexRow:
    """A thing of the graph, as it was last described."""

    kind: int
    """VertexKind."""
    vertex_id: str
    position: int
    label: str
    properties: str
    """Canonical JSON object, text to text."""


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """An edge, from the later thing to what it came from. Written once, by the first event that says so."""

    source_kind: int
    source_id: str
    relation: int
    """EdgeRelation."""
    target_kind: int
    target_id: str
    role: str
    position: int
    event_id: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class RunNumberRow:
    """The run behind "project#12"."""

    project: str
    number: int
    position: int
    run_id: str


VERTEX = TableSpec("vertex", VertexRow, ("kind", "vertex_id"))
EDGE_UP = TableSpec(
    "edge_up", EdgeRow, ("source_kind", "source_id", "relation", "target_kind", "target_id", "role")
)
EDGE_DOWN = TableSpec(
    "edge_down", EdgeRow, ("target_kind", "target_id", "relation", "source_kind", "source_id", "role")
)
RUN_NUMBER = TableSpec("run_number", RunNumberRow, ("project", "number"))
