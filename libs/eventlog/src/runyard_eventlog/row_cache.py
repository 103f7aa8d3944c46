"""The newest rows of a build that one process fills, so that it reads few of its own rows back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from runyard_core.projection import KeyValue, RowKey
from runyard_eventlog.folding import Folded

ROWS_MAX = 50_000
"""Most rows that are kept, beyond those of the last batch."""
KEY_BITS = 27
"""Binary logarithm of the bits (16 MiB) that tell a new key from a known one."""

_Key = tuple[KeyValue, ...]
_Tables = defaultdict[str, dict[_Key, dict[int, object]]]
"""Table -> key -> position -> row; without a row when the table has none."""

Keys = Mapping[str, set[_Key]]
"""Table -> keys."""


class RowCache:
    """Rows of the keys that were used last, and whether a key was ever used at all.

    It is right while nobody else writes the build, and wrong after a batch that was folded and not written:
    each fill begins with a new one.
    """

    def __init__(self, *, has_all_keys: bool, rows_max: int = ROWS_MAX) -> None:
        """Begin empty; ``has_all_keys`` when the build is empty too, so that an unknown key has no row."""
        self._rows_max = rows_max
        # Two halves: what was used since the last turn, and before it. A turn forgets the older half.
        self._recent: _Tables = defaultdict(dict)
        self._before: _Tables = defaultdict(dict)
        self._known = KnownKeys() if has_all_keys else None

    def take(self, wanted: Keys) -> tuple[dict[RowKey, object | None], dict[str, set[_Key]]]:
        """Give the rows of keys as far as it knows them, and the keys whose rows must be read."""
        known = self._known
        found: dict[RowKey, object | None] = {}
        missing: dict[str, set[_Key]] = {}
        for table, keys in wanted.items():
            recent, before = self._recent[table], self._before[table]
            for values in keys:
                rows = recent.get(values)
                if rows is None and (rows := before.get(values)) is not None:
                    recent[values] = rows
                if rows is not None:
                    # Positions come in order, so the last one put is the newest.
                    found[RowKey(table, values)] = next(reversed(rows.values()), None)
                elif known is None or known.has(table, values):
                    missing.setdefault(table, set()).add(values)
        return found, missing

    def keep(self, missing: Keys, fetched: Mapping[RowKey, object | None], folded: Folded) -> None:
        """Keep what a batch read (also that there was no row) and put."""
        for table, keys in missing.items():
            self._recent[table].update((values, {}) for values in keys)
        for (table, values), row in fetched.items():
            self._recent[table][values] = {0: row}
        for table, put in folded.rows.items():
            self._recent[table].update(put)
            if self._known is not None:
                self._known.add_all(table, put)
        if sum(map(len, self._recent.values())) > self._rows_max // 2:
            self._before, self._recent = self._recent, defaultdict(dict)


class KnownKeys:
    """A Bloom filter: says of every key that was added that it was, and of hardly any other."""

    def __init__(self, bits: int = KEY_BITS) -> None:
        """Begin empty, with 2 ** bits bits."""
        self._bits = bits
        self._mask = (1 << bits) - 1
        self._filled = bytearray(1 << (bits - 3))

    def add_all(self, table: str, keys: Iterable[_Key]) -> None:
        """Remember keys."""
        # One hash gives both places: called for every row of a rebuild.
        filled, mask, bits = self._filled, self._mask, self._bits
        for values in keys:
            hashed = hash((table, values))
            place, other = hashed & mask, hashed >> bits & mask
            filled[place >> 3] |= 1 << (place & 7)
            filled[other >> 3] |= 1 << (other & 7)

    def has(self, table: str, values: _Key) -> bool:
        """Say whether a key may have been added; False is certain."""
        hashed = hash((table, values))
        place, other = hashed & self._mask, hashed >> self._bits & self._mask
        filled = self._filled
        return bool(filled[place >> 3] >> (place & 7) & filled[other >> 3] >> (other & 7) & 1)
