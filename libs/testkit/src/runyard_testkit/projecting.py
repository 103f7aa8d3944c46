"""Events through a projection in memory, one after the other, as the projector folds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import KeyValue, Projection, Put, PutAll, TableSpec

RowT = TypeVar("RowT")


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

    def lookup(self, table: TableSpec[RowT]) -> Callable[[tuple[KeyValue, ...]], RowT | None]:
        """Give what looks current rows up."""
        return lambda key: self.get(table, *key)

    def rows(self, table: TableSpec[RowT]) -> list[RowT]:
        """Give every row of a table, in the order put."""
        return [put.row for put in self.puts if put.table is table and isinstance(put.row, table.row_class)]


def fold(projection: Projection[RecordedEvent], events: Iterable[RecordedEvent]) -> Folded:
    """Apply events one after the other.

    It is an error to look at a row that ``reads`` did not name, and to put two rows of one key for one event.
    """
    folded = Folded()
    for event in events:
        named = {(key.table, key.values) for key in projection.reads(event)}
        places: set[tuple[str, tuple[KeyValue, ...]]] = set()
        for put in list(projection.apply(event, _OnlyNamed(folded, named))):
            for row in map(put.table.row, put.rows if isinstance(put, PutAll) else (put.row,)):
                place = (put.table.name, put.table.key_of(row))
                assert row.position == event.position
                assert place not in places, f"two rows of {place} at position {event.position}"
                places.add(place)
                folded.puts.append(Put(put.table, row))
                folded.current[place] = row
    return folded


class _OnlyNamed:
    def __init__(self, folded: Folded, named: set[tuple[str, tuple[KeyValue, ...]]]) -> None:
        self._folded, self._named = folded, named

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        if (table.name, key) not in self._named:
            raise KeyError((table.name, key))
        return self._folded.get(table, *key)

    def lookup(self, table: TableSpec[RowT]) -> Callable[[tuple[KeyValue, ...]], RowT | None]:
        return lambda key: self.get(table, *key)
