"""The projection of the provenance graph: events -> vertices and edges."""

from __future__ import annotations

from typing import Any

from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_core.projection import PutAll, RowKey, Rows, TableSpec, put_all
from runyard_lineage.tables import EDGE, RUN_NUMBER, VERTEX
from runyard_replay.graph.facts import EVENTS, facts
from runyard_replay.graph.rows import VertexKey, VertexRow, described_after, edges_told


class EdgesProjection:
    """Folds the graph."""

    name = "lineage"
    version = 5
    tables: tuple[TableSpec[Any], ...] = (VERTEX, EDGE, RUN_NUMBER)
    event_types = frozenset(event_type_of(event).name for event in EVENTS)

    def reads(self, event: RecordedEvent) -> list[RowKey]:
        """Name the vertices that an event speaks of."""
        things, _, _ = facts(event.envelope, _not_known)
        return [RowKey(VERTEX.name, thing[:2]) for thing in things]

    def apply(self, event: RecordedEvent, rows: Rows) -> list[PutAll[Any]]:
        """Give new and newly described vertices, and every edge that the event tells."""
        position = event.position
        vertex = rows.lookup(VERTEX)
        things, edges, numbered = facts(event.envelope, vertex)
        puts: list[PutAll[Any]] = []
        new: dict[VertexKey, VertexRow] = {}
        for thing in things:
            kind, vertex_id, label, told = thing
            key = (kind, vertex_id)
            before = (new and new.get(key)) or vertex(key)
            # Most often a thing is known, and named only or described as before.
            if (
                before is not None
                and (not told or told == before.properties)
                and (not label or label == before.label)
            ):
                continue
            after = described_after(thing, before, position)
            if after is not before:
                new[key] = after
        if new:
            puts.append(put_all((VERTEX, [*new.values()])))
        if edges:
            puts.append(put_all((EDGE, edges_told(edges, event))))
        if numbered is not None:
            project, number, run_id = numbered
            puts.append(put_all((RUN_NUMBER, [(project, number, position, run_id)])))
        return puts


def _not_known(_key: VertexKey) -> None:
    return None
