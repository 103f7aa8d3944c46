"""The shape of every projection: a pure function from one event and the rows it touches to new rows.

Read-model tables are append-only: one row for each (key, position), never updated. The current state
is the row with the highest position of a key; the state as of a position is the highest one up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

RowT = TypeVar("RowT")
EventT_contra = TypeVar("EventT_contra", contravariant=True)

KeyValue = str | int
"""What a key column may hold."""


class Hashed(NamedTuple):
    """In an index: a hash of a long text and a number, in place of both.

    It is made in half the time and takes a third of the room. Who looks for rows asks for the hash, and for
    text and number, too.
    """

    text: str
    number: str


@dataclass(frozen=True, slots=True)
class TableSpec(Generic[RowT]):
    """One append-only table of a read model.

    The columns are the fields of ``row_class``, a frozen dataclass or a named tuple with the key fields and
    ``position: int``. Column types follow the annotations: str, int, float, bool, bytes, datetime,
    ``X | None`` and tuples of str, int or float. A named tuple that begins with its key and ``position`` is
    the cheapest row there is: it is made and written out in a third of the time.
    """

    name: str
    """Unversioned name, also of the view on the current rows: "run_cost"."""
    row_class: type[RowT]
    key: tuple[str, ...]
    """Names of the key fields."""
    is_read: bool = True
    """False when ``reads`` never names a row of it: each row stands for itself, and a fold need not remember
    it. An event puts at most one row for each key of such a table."""
    indexes: tuple[tuple[str | Hashed, ...], ...] = ()
    """Fields of further indexes, besides the one of key and position."""

    key_index: tuple[str | Hashed, ...] = ()
    """Fields of a smaller index instead of the primary key, for a table that is never read by whole keys: it
    takes less time and room, and leaves it to the projection that no row is there twice."""

    def key_of(self, row: RowT) -> tuple[KeyValue, ...]:
        """Give the values of the key fields of a row."""
        return values_of(self.key)(row)

    def row(self, put: RowT | tuple[object, ...]) -> RowT:
        """Give the row that was put, perhaps as the plain tuple of its columns."""
        return put if isinstance(put, self.row_class) else self.row_class(*cast("tuple[Any, ...]", put))


class RowKey(NamedTuple):
    """Names the current row of a table."""

    table: str
    values: tuple[KeyValue, ...]


class Put(NamedTuple, Generic[RowT]):
    """A new row, which becomes the current one of its key."""

    table: TableSpec[RowT]
    row: RowT


class PutAll(NamedTuple, Generic[RowT]):
    """Several new rows of one table, as ``Put`` one after the other: many rows are kept at a time.

    Rows of a named tuple that are never read may be plain tuples, as they are only written.
    """

    table: TableSpec[RowT]
    rows: Sequence[RowT | tuple[object, ...]]


put_all: Callable[[tuple[TableSpec[Any], Sequence[Any]]], PutAll[Any]] = partial(tuple.__new__, PutAll)
"""Make a ``PutAll`` of its pair as its constructor does, in half the time."""


class Rows(Protocol):
    """The current rows that ``reads`` asked for, including those put by earlier events of the batch."""

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        """Give the current row of a key, or None.

        Raises:
            KeyError: ``reads`` did not name this key, and it is not at hand by chance.
        """
        ...

    def lookup(self, table: TableSpec[RowT]) -> Callable[[tuple[KeyValue, ...]], RowT | None]:
        """Give ``get`` for one table, by whole keys: for an event that looks at many rows of it."""
        ...


class Projection(Protocol[EventT_contra]):
    """A pure fold of the log into append-only tables. Imports no I/O, clock or random."""

    @property
    def name(self) -> str:
        """Name of the read model: "cost"."""
        ...

    @property
    def version(self) -> int:
        """Raised when the tables or the meaning of ``apply`` change; built beside the old one."""
        ...

    @property
    def tables(self) -> tuple[TableSpec[Any], ...]:
        """Every table that ``apply`` puts rows into."""
        ...

    @property
    def event_types(self) -> frozenset[str]:
        """Stored names of the events that it wants; others only move the checkpoint."""
        ...

    def reads(self, event: EventT_contra) -> Iterable[RowKey]:
        """Name the rows that ``apply`` will look at for this event; not asked while they are all at hand."""
        ...

    def apply(self, event: EventT_contra, rows: Rows) -> Iterable[Put[Any] | PutAll[Any]]:
        """Give the new rows. Each row's ``position`` is the event's position.

        Asked again for the same event when it looked at a row that is not at hand yet.
        """
        ...


@cache
def values_of(names: tuple[str, ...]) -> Callable[[object], tuple[KeyValue, ...]]:
    """Give what reads some fields of a row, many times as fast as reading one after the other."""
    if len(names) > 1:
        return attrgetter(*names)
    (name,) = names
    return lambda row: (getattr(row, name),)
