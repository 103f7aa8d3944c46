"""Texts with a NUL, which PostgreSQL cannot hold: a projection over rows as tables have them, without it.

Such a text is so rare that nobody looks for it. A batch is folded as it is; when the database refuses a text
of it, it is folded once more, as ``Storable``. Its rows depend neither on the rest of the batch nor on what
the process remembers: a key finds the row that it is stored as, and a row is looked at as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any, TypeVar

from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import KeyValue, Projection, Put, PutAll, RowKey, Rows, TableSpec

RowT = TypeVar("RowT")
_Key = tuple[KeyValue, ...]


class Storable:
    """A projection that knows no NUL in keys and rows: U+FFFD stands for each. Made of a projection, once.

    It takes longer than the projection itself, and does the same where no text has a NUL.
    """

    def __init__(self, projection: Projection[Any]) -> None:
        self._projection = projection
        self.name = projection.name
        self.version = projection.version
        self.tables: tuple[TableSpec[Any], ...] = projection.tables
        self.event_types = projection.event_types

    def reads(self, event: RecordedEvent) -> list[RowKey]:
        """See ``Projection.reads``."""
        return [RowKey(table, _without_nul(key)) for table, key in self._projection.reads(event)]

    def apply(self, event: RecordedEvent, rows: Rows) -> list[Put[Any] | PutAll[Any]]:
        """See ``Projection.apply``."""
        return [
            PutAll(put.table, [_storable(row) for row in put.rows])
            if isinstance(put, PutAll)
            else Put(put.table, _storable(put.row))
            for put in self._projection.apply(event, _StorableRows(rows))
        ]


def has_nul(key: _Key) -> bool:
    """Say whether no table can have this key. Asked for nearly every new row of a rebuild."""
    for value in key:  # noqa: SIM110 - three times as fast as any()
        if value.__class__ is str and "\0" in value:
            return True
    return False


class _StorableRows:
    """Rows that are found by keys as they are stored."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        return self._rows.get(table, *_without_nul(key))

    def lookup(self, table: TableSpec[RowT]) -> Callable[[_Key], RowT | None]:
        found = self._rows.lookup(table)
        return lambda key: found(_without_nul(key))


def _storable(row: Any) -> Any:
    """Give a row as it is stored: a plain tuple of its columns, a named tuple or a dataclass."""
    if isinstance(row, tuple):
        return tuple.__new__(type(row), _without_nul(row))
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    changed = {name: new for name, value in values.items() if (new := _value_without_nul(value)) != value}
    return replace(row, **changed) if changed else row


def _without_nul(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(map(_value_without_nul, values))


def _value_without_nul(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    return _without_nul(value) if isinstance(value, tuple) else value
