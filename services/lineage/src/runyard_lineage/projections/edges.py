"""The projection of the provenance graph: events -> vertices and edges, each edge once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_core.projection import Put, RowKey, Rows, TableSpec
from runyard_lineage.tables import EDGE_DOWN, EDGE_UP, RUN_NUMBER, VERTEX, RunNumberRow
from runyard_replay.graph.facts import EVENTS, Origin, Thing, facts
from runyard_replay.graph.identities import key_text
from runyard_replay.graph.rows import VertexKey, described_after, edge_key, edge_rows, sorted_out

_TOLD_MAX = 10_000
"""Events whose facts wait for ``apply``. More than a batch: some never come to it, as others stop them."""


class EdgesProjection:
    """Folds the graph."""

    name = "lineage"
    version = 1
    tables: tuple[TableSpec[Any], ...] = (VERTEX, EDGE_UP, EDGE_DOWN, RUN_NUMBER)
    event_types = frozenset(event_type_of(event).name for event in EVENTS)

    def __init__(self) -> None:
        """Start with nothing kept."""
        self._told: dict[RecordedEvent, tuple[list[Thing], list[Origin]]] = {}

    def reads(self, event: RecordedEvent) -> Iterator[RowKey]:
        """Name the vertices and edges that an event speaks of; what it tells is kept for ``apply``."""
        if len(self._told) >= _TOLD_MAX:
            self._told.clear()
        things, origins = self._told[event] = sorted_out(facts(event.message, event.envelope))
        for thing in things:
            yield RowKey(VERTEX.name, (thing.kind, thing.id))
        for origin in origins:
            yield RowKey(EDGE_UP.name, edge_key(origin))

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterator[Put[Any]]:
        """Give new and newly described vertices, and new edges."""
        told = self._told.pop(event, None)
        things, origins = told or sorted_out(facts(event.message, event.envelope))
        keys: list[VertexKey] = [(thing.kind, thing.id) for thing in things]
        before = {key: rows.get(VERTEX, *key) for key in keys}
        described = before.copy()
        for key, thing in zip(keys, things, strict=True):
            described[key] = described_after(thing, described[key], event.position)
        for key, vertex in described.items():
            if vertex is not before[key]:
                yield Put(VERTEX, vertex)
        edges = {edge_key(origin): origin for origin in origins}
        new = [origin for known, origin in edges.items() if rows.get(EDGE_UP, *known) is None]
        for edge in edge_rows(new, event):
            yield Put(EDGE_UP, edge)
            yield Put(EDGE_DOWN, edge)
        if isinstance(message := event.message, RunQueued):
            run_id = key_text(message.run_id)
            yield Put(
                RUN_NUMBER, RunNumberRow(key_text(message.project), message.number, event.position, run_id)
            )
