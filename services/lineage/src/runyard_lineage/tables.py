"""The graph's tables. Append-only: one row for each (key, position), never updated.

Every edge stands in two tables, led by its source for walks up and by its target for walks down: an
append-only table has one index, its key.
"""

from __future__ import annotations

from dataclasses import dataclass

from runyard_core.projection import TableSpec
from runyard_replay.graph.rows import EdgeRow, VertexRow


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
