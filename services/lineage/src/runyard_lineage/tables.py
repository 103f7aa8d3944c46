"""The graph's tables. Append-only: one row for each (key, position), never updated.

An edge has a row for each event that tells it, so that no event must look at earlier ones: who walks takes
the first. Walks up and down go by an index each; the whole key of an edge is never asked for.
"""

from __future__ import annotations

from typing import NamedTuple

from runyard_core.projection import Hashed, TableSpec
from runyard_replay.graph.rows import EdgeRow, VertexRow


class RunNumberRow(NamedTuple):
    """The run behind "project#12"."""

    project: str
    number: int
    position: int
    run_id: str


VERTEX = TableSpec("vertex", VertexRow, ("kind", "vertex_id"))
EDGE = TableSpec(
    "edge",
    EdgeRow,
    ("source_kind", "source_id", "relation", "target_kind", "target_id", "role"),
    is_read=False,
    key_index=(Hashed("source_id", "source_kind"), "position"),
    indexes=((Hashed("target_id", "target_kind"), "position"),),
)
RUN_NUMBER = TableSpec("run_number", RunNumberRow, ("project", "number"), is_read=False)
