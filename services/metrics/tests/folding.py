"""Fold batches through a projection in memory, as the projector does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Envelope
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import EventId, deterministic_id
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import KeyValue, Projection, Put, TableSpec
from runyard_metrics.domain.spools import SpoolKey

RowT = TypeVar("RowT")
AT = datetime(2026, 3, 1, tzinfo=UTC)


def envelope_of(message: Message, sequence: int, spool: SpoolKey = SpoolKey("node-1", "s1")) -> Envelope:
    """Make the envelope that an agent sends."""
    context = Context(
        actor=Actor(kind=ActorKind.ACTOR_KIND_AGENT, id=spool.node_id),
        correlation_id="c",
        source=f"/agents/{spool.node_id}",
    )
    event_id = EventId(deterministic_id(spool.node_id, spool.spool_id, sequence))
    envelope = wrap(message, spool.stream, context, AT, event_id=event_id)
    envelope.stream_version = sequence
    return envelope


def recorded(messages: Sequence[Message]) -> list[RecordedEvent]:
    """Give messages the positions that a log with nothing else in it would."""
    events = []
    for position, message in enumerate(messages, start=1):
        envelope = envelope_of(message, position)
        envelope.position = position
        events.append(RecordedEvent(envelope))
    return events


@dataclass
class Folded:
    """Every row that a projection put, and the current one of each key."""

    puts: list[Put[Any]] = field(default_factory=list)
    current: dict[tuple[str, tuple[KeyValue, ...]], object] = field(default_factory=dict)

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        """Give the current row of a key."""
        row = self.current.get((table.name, key))
        assert row is None or isinstance(row, table.row_class)
        return row

    def rows(self, table: TableSpec[RowT]) -> list[RowT]:
        """Give every row of a table, in the order put."""
        return [put.row for put in self.puts if put.table is table and isinstance(put.row, table.row_class)]


class _OnlyNamed:
    """The rows that ``reads`` named: looking at another one is an error."""

    def __init__(self, folded: Folded, named: set[tuple[str, tuple[KeyValue, ...]]]) -> None:
        self._folded, self._named = folded, named

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        if (table.name, key) not in self._named:
            raise KeyError((table.name, key))
        return self._folded.get(table, *key)


def fold(projection: Projection[RecordedEvent], events: Iterable[RecordedEvent]) -> Folded:
    """Apply events one after the other."""
    folded = Folded()
    for event in events:
        named = {(key.table, key.values) for key in projection.reads(event)}
        for put in list(projection.apply(event, _OnlyNamed(folded, named))):
            assert put.row.position == event.position
            folded.puts.append(put)
            folded.current[put.table.name, put.table.key_of(put.row)] = put.row
    return folded
