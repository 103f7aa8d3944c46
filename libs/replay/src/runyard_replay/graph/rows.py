"""Vertices and edges as the graph holds them, in tables or in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from runyard_contracts.recorded import RecordedEvent
from runyard_replay.graph.facts import EdgeKey, Properties, Thing
from runyard_replay.graph.identities import canonical_texts

VertexKey = tuple[int, str]
"""Kind and id."""


class VertexRow(NamedTuple):
    """A thing of the graph, as it was last described."""

    kind: int
    """VertexKind."""
    vertex_id: str
    position: int
    label: str
    properties: str
    """Canonical JSON object, text to text."""


class EdgeRow(NamedTuple):
    """An edge, from the later thing to what it came from, as one event tells it; others may tell it again."""

    source_kind: int
    source_id: str
    relation: int
    """EdgeRelation."""
    target_kind: int
    target_id: str
    role: str
    position: int
    event_id: str
    occurred_at_us: int
    """Microseconds since 1970."""

    @property
    def key(self) -> EdgeKey:
        """What tells it from others: everything but who said so, and when."""
        return self[:6]


def described_after(thing: Thing, before: VertexRow | None, position: int) -> VertexRow:
    """Add what an event knows of a vertex; gives the same row when it knows nothing new."""
    kind, vertex_id, label, told = thing
    if before is None:
        return _VERTEX_ROW((kind, vertex_id, position, label, canonical_texts(told) if told else "{}"))
    known = before.properties
    properties = _merged(known, told) if told else known
    label = label or before.label
    if properties == known and label == before.label:
        return before
    return _VERTEX_ROW((kind, vertex_id, position, label, properties))


def property_of(vertex: VertexRow | None, name: str) -> str:
    """Give a property of a vertex; empty when it has none."""
    if vertex is None:
        return ""
    known: dict[str, str] = json.loads(vertex.properties)
    return known.get(name, "")


def edge_rows(edges: Sequence[EdgeKey], event: RecordedEvent) -> list[EdgeRow]:
    """Write edges as the event tells them, each once."""
    envelope = event.envelope
    occurred_at = envelope.occurred_at
    occurred_at_us = occurred_at.seconds * 1_000_000 + occurred_at.nanos // 1_000
    told = (event.position, envelope.event_id, occurred_at_us)
    return [_EDGE_ROW(key + told) for key in (dict.fromkeys(edges) if len(edges) > 1 else edges)]


# What NamedTuple's own constructor does, without its way over Python.
_EDGE_ROW: Callable[[tuple[object, ...]], EdgeRow] = partial(tuple.__new__, EdgeRow)
_VERTEX_ROW: Callable[[tuple[object, ...]], VertexRow] = partial(tuple.__new__, VertexRow)


@lru_cache(maxsize=4_096)
def _merged(known: str, told: Properties) -> str:
    """Add properties to those known, both of few things that are told of again and again."""
    texts: dict[str, str] = json.loads(known)
    texts.update(told)
    return canonical_texts(texts.items())
