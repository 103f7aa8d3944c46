"""Things and origins as the graph holds them, in tables or in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from runyard_contracts.recorded import RecordedEvent
from runyard_replay.graph.facts import Origin, Thing
from runyard_replay.graph.identities import canonical_json

VertexKey = tuple[int, str]
"""Kind and id."""
EdgeKey = tuple[int, str, int, int, str, str]
"""Source, relation, target and role."""


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

    @property
    def key(self) -> EdgeKey:
        """What tells it from others: everything but who said so, and when."""
        return (
            *(self.source_kind, self.source_id),
            self.relation,
            *(self.target_kind, self.target_id),
            self.role,
        )


def sorted_out(found: Iterable[Thing | Origin]) -> tuple[list[Thing], list[Origin]]:
    """Tell the things that an event speaks of from the origins that it tells."""
    things: list[Thing] = []
    origins: list[Origin] = []
    for each in found:
        if isinstance(each, Origin):
            things += [each.source, each.target]
            origins.append(each)
        else:
            things.append(each)
    return things, origins


def described_after(thing: Thing, before: VertexRow | None, position: int) -> VertexRow:
    """Add what an event knows of a vertex; gives the same row when it knows nothing new."""
    if before is not None and not thing.properties and thing.label in ("", before.label):
        return before
    properties = _merged(before.properties if before else "{}", tuple(thing.properties.items()))
    label = thing.label or (before.label if before else "")
    if before is not None and (before.label, before.properties) == (label, properties):
        return before
    return VertexRow(thing.kind, thing.id, position, label, properties)


def edge_key(origin: Origin) -> EdgeKey:
    """Give the key that the edge of an origin has."""
    source, target = origin.source, origin.target
    return (source.kind, source.id, origin.relation, target.kind, target.id, origin.role)


def edge_rows(origins: Iterable[Origin], event: RecordedEvent) -> Iterator[EdgeRow]:
    """Write origins as the event tells them."""
    envelope = event.envelope
    position, event_id = event.position, envelope.event_id
    occurred_at = envelope.occurred_at.ToDatetime(tzinfo=UTC)
    for origin in origins:
        yield EdgeRow(*edge_key(origin), position, event_id, occurred_at)


@lru_cache(maxsize=4_096)
def _merged(known: str, told: tuple[tuple[str, str], ...]) -> str:
    """Add properties to those known, both of few things that are told of again and again."""
    return canonical_json(json.loads(known) | dict(told)) if told else known
