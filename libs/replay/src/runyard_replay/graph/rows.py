"""Vertices and edges as the graph holds them, in tables or in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from runyard_contracts.recorded import RecordedEvent
from runyard_replay.graph.facts import EdgeKey
from runyard_replay.graph.identities import canonical_texts
from runyard_replay.graph.things import Thing

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
    """Canonical JSON object, text to text; names are words of letters, digits and underscores."""


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
        return _VERTEX_ROW((kind, vertex_id, position, label, told or "{}"))
    known = before.properties
    properties = _merged(known, told) if told and told != known else known
    label = label or before.label
    if properties == known and label == before.label:
        return before
    return _VERTEX_ROW((kind, vertex_id, position, label, properties))


EdgeColumns = tuple[int, str, int, int, str, str, int, str, int]
"""The fields of an ``EdgeRow``: half the work where hundreds of thousands are only written each second."""


def edges_told(edges: Sequence[EdgeKey], event: RecordedEvent) -> list[EdgeColumns]:
    """Write edges as the event tells them, which tells each once."""
    envelope = event.envelope
    occurred_at = envelope.occurred_at
    occurred_at_us = occurred_at.seconds * 1_000_000 + occurred_at.nanos // 1_000
    told = (event.position, envelope.event_id, occurred_at_us)
    return [key + told for key in edges]


# What NamedTuple's own constructor does, without its way over Python.
_VERTEX_ROW: Callable[[tuple[object, ...]], VertexRow] = partial(tuple.__new__, VertexRow)


def _merged(known: str, told: str) -> str:
    """Add properties to those known."""
    if known == "{}":
        return told
    added = _pairs(told)
    if added is None or _is_hard(known) or any(name in known for name, _ in added):
        texts: dict[str, str] = json.loads(known)
        texts.update(json.loads(told))
        return canonical_texts(texts.items())
    # A third of the time of JSON. What ends a name sorts before all that a name may have.
    pairs = known[2:-2].split('","')
    pairs += [pair for _, pair in added]
    pairs.sort()
    return '{"' + '","'.join(pairs) + '"}'


@lru_cache(maxsize=256)
def _pairs(told: str) -> Sequence[tuple[str, str]] | None:
    """Take an object apart: each name as only a name is written, and its pair without the outer quotes.

    None where that cannot be told from its text. Few are told of many things.
    """
    if _is_hard(told):
        return None
    return [('"' + pair.partition('"')[0] + '":', pair) for pair in told[2:-2].split('","')]


def _is_hard(written: str) -> bool:
    """Say whether something is escaped, or a text begins with what stands between pairs."""
    return "\\" in written or ':","' in written
