"""The projection of the provenance graph: events -> vertices and edges."""

from __future__ import annotations

from typing import Any

from runyard.lineage.v1.lineage_service_pb2 import VertexKind
from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_core.projection import Put, PutAll, RowKey, Rows, TableSpec
from runyard_lineage.tables import EDGE, RUN_NUMBER, VERTEX, RunNumberRow
from runyard_replay.graph.facts import EVENTS, facts
from runyard_replay.graph.identities import key_text
from runyard_replay.graph.rows import VertexKey, VertexRow, described_after, edge_rows, property_of

_RUN = VertexKind.VERTEX_KIND_RUN
"""Looked up once: the class looks names up in its descriptor."""


class EdgesProjection:
    """Folds the graph."""

    name = "lineage"
    version = 3
    tables: tuple[TableSpec[Any], ...] = (VERTEX, EDGE, RUN_NUMBER)
    event_types = frozenset(event_type_of(event).name for event in EVENTS)

    def reads(self, event: RecordedEvent) -> list[RowKey]:
        """Name the vertices that an event speaks of."""
        things, _ = facts(event.message, event.envelope, _not_known)
        return [RowKey(VERTEX.name, thing[:2]) for thing in things]

    def apply(self, event: RecordedEvent, rows: Rows) -> list[Put[Any] | PutAll[Any]]:
        """Give new and newly described vertices, and every edge that the event tells."""
        message, position = event.message, event.position

        def project_of(run_id: str) -> str:
            return property_of(rows.get(VERTEX, _RUN, run_id), "project")

        things, edges = facts(message, event.envelope, project_of)
        puts: list[Put[Any] | PutAll[Any]] = []
        new: dict[VertexKey, VertexRow] = {}
        for thing in things:
            kind, vertex_id, label, told = thing
            key = (kind, vertex_id)
            before = new.get(key) or rows.get(VERTEX, kind, vertex_id)
            # Most often a thing that is known is only named.
            if before is not None and not told and (not label or label == before.label):
                continue
            after = described_after(thing, before, position)
            if after is not before:
                new[key] = after
        if new:
            puts.append(PutAll(VERTEX, [*new.values()]))
        if edges:
            puts.append(PutAll(EDGE, edge_rows(edges, event)))
        if type(message) is RunQueued:
            project, run_id = key_text(message.project), key_text(message.run_id)
            puts.append(Put(RUN_NUMBER, RunNumberRow(project, message.number, position, run_id)))
        return puts


def _not_known(_run_id: str) -> str:
    return ""
