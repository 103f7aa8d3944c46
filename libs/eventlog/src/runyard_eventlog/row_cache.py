"""The newest rows of a build that one process fills, so that it reads few of its own rows back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from runyard_core.projection import KeyValue, RowKey, TableSpec
from runyard_eventlog.storable import has_nul

ROWS_MAX = 50_000
"""Most rows that are kept, beyond those of the last batch."""
ROWS_BYTES_MAX = 64 * 1024 * 1024
"""About the most that their texts, bytes and arrays take, which may be a megabyte each, beyond those too."""
KEY_BITS = 27
"""Binary logarithm of the bits (16 MiB) that tell a forgotten key from one that never was."""

_WEIGHED_MAX = 250
"""Rows of a table that are weighed at a time, in under a millisecond: they stand for the others."""
_NUMBER_BYTES = 32
"""What a number in an array takes."""

RowT = TypeVar("RowT")
Key = tuple[KeyValue, ...]
Keys = Mapping[str, set[Key]]
"""Table -> keys."""

_UNKNOWN = object()


class RowMissingError(Exception):
    """A fold looked at a row that is not at hand. Never leaves the fold."""


class RowCache:
    """Rows of the keys that were used last: what a fold looks at.

    It is right while nobody else writes the build, and wrong after a batch that was folded and not written:
    then begin with a new one.
    """

    def __init__(
        self,
        tables: Iterable[TableSpec[Any]] = (),
        *,
        has_all_keys: bool,
        rows_max: int = ROWS_MAX,
        bytes_max: int = ROWS_BYTES_MAX,
        key_bits: int = KEY_BITS,
    ) -> None:
        """Begin empty.

        Args:
            tables: those whose rows are weighed.
            has_all_keys: the build is empty too, so that an unknown key has no row.
            rows_max: as ``ROWS_MAX``.
            bytes_max: as ``ROWS_BYTES_MAX``.
            key_bits: as ``KEY_BITS``.
        """
        self._has_all_keys = has_all_keys
        self._bytes_max = bytes_max
        self._columns = {
            spec.name: [
                (attrgetter(name), weigh)
                for name, kind in get_type_hints(spec.row_class).items()
                if (weigh := _weigher_of(kind)) is not None
            ]
            for spec in tables
            if spec.is_read
        }
        self._turn_count = 0
        self._key_bits = key_bits
        self._rows_max = rows_max
        self._forgotten: KnownKeys | None = None
        # Two halves: what was used since the last turn, and before it. A turn forgets the older half.
        self._before = self._half({})
        self._recent = self._half(self._before)

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        """See ``Rows.get``.

        Raises:
            RowMissingError: the row must be fetched first.
        """
        row: RowT | None = self._recent[table.name][key]
        return row

    def lookup(self, table: TableSpec[RowT]) -> Callable[[Key], RowT | None]:
        """See ``Rows.lookup``. Raises as ``get`` does."""
        return self._recent[table.name].__getitem__

    def of(self, table: str) -> dict[Key, object | None]:
        """Give the rows of a table to put new ones into. Another dictionary after each ``turn``."""
        return self._recent[table]

    def missing(self, keys: Iterable[RowKey]) -> dict[str, set[Key]]:
        """Give those of these keys whose rows must be fetched."""
        missing: dict[str, set[Key]] = {}
        for table, values in keys:
            try:
                self._recent[table][values]
            except RowMissingError:
                missing.setdefault(table, set()).add(values)
        return missing

    def supply(self, keys: Keys, fetched: Mapping[RowKey, object | None]) -> None:
        """Take what was found of missing keys; what was not found has no row."""
        for table, of_table in keys.items():
            self._recent[table].update(dict.fromkeys(of_table))
        for (table, values), row in fetched.items():
            self._recent[table][values] = row

    def turn(self) -> None:
        """Forget the rows that were not used for long, if there are too many. Between two batches.

        The rows of the last batch stay, as that may be on its way into the table still.
        """
        self._turn_count += 1
        row_count = sum(map(len, self._recent.values()))
        if row_count <= self._rows_max // 2 and self._size_bytes() <= self._bytes_max // 2:
            return
        if self._has_all_keys and any(self._before.values()):
            self._forgotten = self._forgotten or KnownKeys(self._key_bits)
            for table, rows in self._before.items():
                self._forgotten.add_all(table, (values for values, row in rows.items() if row is not None))
        self._recent.forget_before()
        self._before, self._recent = self._recent, self._half(self._recent)

    def _size_bytes(self) -> int:
        """Say about how much the rows take that were used since the last turn, from some of them."""
        size_bytes = 0
        for table, columns in self._columns.items():
            rows = self._recent[table]
            step = len(rows) // _WEIGHED_MAX + 1
            # From another row on each time, as the large ones may come at even distances.
            for row in islice(rows.values(), self._turn_count % step, None, step):
                if row is not None:
                    size_bytes += step * sum(weigh(value_of(row)) for value_of, weigh in columns)
        return size_bytes

    def _half(self, before: Mapping[str, _TableRows]) -> _Half:
        if not self._has_all_keys:
            return _Half(before, lambda _table, _key: True)
        return _Half(before, self._forgotten.has if self._forgotten else None)


def _weigher_of(kind: object) -> Callable[[Any], int] | None:
    """Give what weighs a column of a type; None when it is always small."""
    if kind in (str, bytes):
        return len
    if get_origin(kind) is not tuple:
        return None
    if get_args(kind)[0] is str:
        return lambda texts: sum(map(len, texts))
    return lambda numbers: _NUMBER_BYTES * len(numbers)


class _Half(dict[str, "_TableRows"]):
    """Table -> key -> its newest row; None when the table has none."""

    def __init__(self, before: Mapping[str, _TableRows], may_have: Callable[[str, Key], bool] | None) -> None:
        """Look back into another half; None when a key that is not there either has no row."""
        self._before = before
        self._may_have = may_have

    def __missing__(self, table: str) -> _TableRows:
        may_have = partial(self._may_have, table) if self._may_have else None
        rows = self[table] = _TableRows(self._before.get(table, {}), may_have)
        return rows

    def forget_before(self) -> None:
        """Let go of the half before this one."""
        self._before = {}
        for rows in self.values():
            rows.before = {}


class _TableRows(dict[Key, Any]):
    """Rows of one table; a subscript that is not there looks back, which costs nothing when it is."""

    def __init__(self, before: Mapping[Key, Any], may_have: Callable[[Key], bool] | None) -> None:
        self.before = before
        self._may_have = may_have

    def __missing__(self, key: Key) -> Any:
        row = self.before.get(key, _UNKNOWN)
        if row is not _UNKNOWN:
            self[key] = row
            return row
        # A key with a NUL may have the row that it is stored as: the database says that it knows no such key.
        if (self._may_have is None or not self._may_have(key)) and not has_nul(key):
            return None
        raise RowMissingError


class KnownKeys:
    """A Bloom filter: says of every key that was added that it was, and of hardly any other."""

    def __init__(self, bits: int = KEY_BITS) -> None:
        """Begin empty, with 2 ** bits bits."""
        self._bits = bits
        self._mask = (1 << bits) - 1
        self._filled = bytearray(1 << (bits - 3))

    def add_all(self, table: str, keys: Iterable[Key]) -> None:
        """Remember keys."""
        # One hash gives both places: called for nearly every row of a long rebuild.
        filled, mask, bits = self._filled, self._mask, self._bits
        for values in keys:
            hashed = hash((table, values))
            place, other = hashed & mask, hashed >> bits & mask
            filled[place >> 3] |= 1 << (place & 7)
            filled[other >> 3] |= 1 << (other & 7)

    def has(self, table: str, values: Key) -> bool:
        """Say whether a key may have been added; False is certain."""
        hashed = hash((table, values))
        place, other = hashed & self._mask, hashed >> self._bits & self._mask
        filled = self._filled
        return bool(filled[place >> 3] >> (place & 7) & filled[other >> 3] >> (other & 7) & 1)
