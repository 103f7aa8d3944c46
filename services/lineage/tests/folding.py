"""Fold domain events through the projection in memory, as the projector does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import KeyValue, Put, PutAll, TableSpec
from runyard_lineage.projections.edges import EdgesProjection

RowT = TypeVar("RowT")
AT = datetime(2026, 3, 1, tzinfo=UTC)
ALICE = Context(Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"), "c", "/scheduler")


def recorded(messages: Iterable[Message]) -> list[RecordedEvent]:
    """Give messages the positions that a log with nothing else in it would."""
    events = []
    for position, message in enumerate(messages, start=1):
        envelope = wrap(message, StreamName("run-x"), ALICE, AT + timedelta(seconds=position))
        envelope.position = position
        events.append(RecordedEvent(envelope))
    return events


@dataclass
class Folded:
    """Every row that the projection put, and the current one of each key."""

    puts: list[Put[Any]] = field(default_factory=list)
    current: dict[tuple[str, tuple[KeyValue, ...]], Any] = field(default_factory=dict)

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        """Give the current row of a key."""
        row = self.current.get((table.name, key))
        assert row is None or isinstance(row, table.row_class)
        return row

    def rows(self, table: TableSpec[RowT]) -> list[RowT]:
        """Give every row of a table, in the order put."""
        return [put.row for put in self.puts if put.table is table]


class _OnlyNamed:
    def __init__(self, folded: Folded, named: set[tuple[str, tuple[KeyValue, ...]]]) -> None:
        self._folded, self._named = folded, named

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        if (table.name, key) not in self._named:
            raise KeyError((table.name, key))
        return self._folded.get(table, *key)


def fold(messages: Iterable[Message]) -> Folded:
    """Apply events one after the other."""
    projection, folded = EdgesProjection(), Folded()
    for event in recorded(messages):
        named = {(key.table, key.values) for key in projection.reads(event)}
        for put in projection.apply(event, _OnlyNamed(folded, named)):
            for row in put.rows if isinstance(put, PutAll) else [put.row]:
                assert row.position == event.position
                folded.puts.append(Put(put.table, row))
                folded.current[put.table.name, put.table.key_of(row)] = row
    return folded
