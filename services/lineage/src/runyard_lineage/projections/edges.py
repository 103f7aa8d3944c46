"""The projection of the provenance graph: events -> vertices and edges, each edge once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_core.projection import Put, RowKey, Rows, TableSpec
from runyard_lineage.tables import EDGE_DOWN, EDGE_UP, RUN_NUMBER, VERTEX, RunNumberRow
from runyard_replay.graph.facts import EVENTS, facts
from runyard_replay.graph.identities import key_text
from runyard_replay.graph.rows import VertexRow, described_after, edge_row, sorted_out


class EdgesProjection:
    """Folds the graph."""

    name = "lineage"
    version = 1
    tables: tuple[TableSpec[Any], ...] = (VERTEX, EDGE_UP, EDGE_DOWN, RUN_NUMBER)
    event_types = frozenset(event_type_of(event).name for event in EVENTS)

    def reads(self, event: RecordedEvent) -> Iterator[RowKey]:
        """Name the vertices and edges that an event speaks of."""
        things, origins = sorted_out(facts(event.message, event.envelope))
        for thing in things:
            yield RowKey(VERTEX.name, (thing.kind, thing.id))
        for origin in origins:
            yield RowKey(EDGE_UP.name, EDGE_UP.key_of(edge_row(origin, event)))

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterator[Put[Any]]:
        """Give new and newly described vertices, and new edges."""
        things, origins = sorted_out(facts(event.message, event.envelope))
        described: dict[tuple[int, str], VertexRow] = {}
        for thing in things:
            key: tuple[int, str] = (thing.kind, thing.id)
            described[key] = described_after(
                thing, described.get(key) or rows.get(VERTEX, *key), event.position
            )
        for key, vertex in described.items():
            if vertex != rows.get(VERTEX, *key):
                yield Put(VERTEX, vertex)
        written: set[tuple[str | int, ...]] = set()
        for origin in origins:
            edge = edge_row(origin, event)
            edge_key = EDGE_UP.key_of(edge)
            if edge_key in written or rows.get(EDGE_UP, *edge_key) is not None:
                continue
            written.add(edge_key)
            yield Put(EDGE_UP, edge)
            yield Put(EDGE_DOWN, edge)
        if isinstance(message := event.message, RunQueued):
            run_id = key_text(message.run_id)
            yield Put(
                RUN_NUMBER, RunNumberRow(key_text(message.project), message.number, event.position, run_id)
            )
