"""The projection of the provenance graph: events -> vertices and edges, each edge once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any

from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_core.projection import Put, RowKey, Rows, TableSpec
from runyard_lineage.domain.identities import canonical_json, key_text
from runyard_lineage.projections.facts import EVENTS, Origin, Thing, facts
from runyard_lineage.tables import (
    EDGE_DOWN,
    EDGE_UP,
    RUN_NUMBER,
    VERTEX,
    EdgeRow,
    RunNumberRow,
    VertexRow,
)


class EdgesProjection:
    """Folds the graph."""

    name = "lineage"
    version = 1
    tables: tuple[TableSpec[Any], ...] = (VERTEX, EDGE_UP, EDGE_DOWN, RUN_NUMBER)
    event_types = frozenset(event_type_of(event).name for event in EVENTS)

    def reads(self, event: RecordedEvent) -> Iterator[RowKey]:
        """Name the vertices and edges that an event speaks of."""
        things, origins = _sorted_out(facts(event.message, event.envelope))
        for thing in things:
            yield RowKey(VERTEX.name, (thing.kind, thing.id))
        for origin in origins:
            yield RowKey(EDGE_UP.name, EDGE_UP.key_of(_edge(origin, event)))

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterator[Put[Any]]:
        """Give new and newly described vertices, and new edges."""
        things, origins = _sorted_out(facts(event.message, event.envelope))
        described: dict[tuple[int, str], VertexRow] = {}
        for thing in things:
            key: tuple[int, str] = (thing.kind, thing.id)
            described[key] = _described(thing, described.get(key) or rows.get(VERTEX, *key), event.position)
        for key, vertex in described.items():
            if vertex != rows.get(VERTEX, *key):
                yield Put(VERTEX, vertex)
        written: set[tuple[str | int, ...]] = set()
        for origin in origins:
            edge = _edge(origin, event)
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


def _sorted_out(found: Iterable[Thing | Origin]) -> tuple[list[Thing], list[Origin]]:
    things: list[Thing] = []
    origins: list[Origin] = []
    for each in found:
        if isinstance(each, Origin):
            things += [each.source, each.target]
            origins.append(each)
        else:
            things.append(each)
    return things, origins


def _described(thing: Thing, before: VertexRow | None, position: int) -> VertexRow:
    """Add what an event knows of a vertex; gives the same row when it knows nothing new."""
    known: dict[str, str] = json.loads(before.properties) if before else {}
    properties = canonical_json(known | dict(thing.properties))
    label = thing.label or (before.label if before else "")
    if before is not None and (before.label, before.properties) == (label, properties):
        return before
    return VertexRow(thing.kind, thing.id, position, label, properties)


def _edge(origin: Origin, event: RecordedEvent) -> EdgeRow:
    return EdgeRow(
        source_kind=origin.source.kind,
        source_id=origin.source.id,
        relation=origin.relation,
        target_kind=origin.target.kind,
        target_id=origin.target.id,
        role=origin.role,
        position=event.position,
        event_id=event.envelope.event_id,
        occurred_at=event.envelope.occurred_at.ToDatetime(tzinfo=UTC),
    )
