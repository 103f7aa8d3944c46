"""The newest rows of a build that one process fills, so that it reads few of its own rows back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runyard_core.projection import KeyValue, RowKey
from runyard_eventlog.folding import Folded

ROWS_MAX = 50_000
"""Most rows that are kept, beyond those of the last batch."""
KEY_BITS = 27
"""Binary logarithm of the bits (16 MiB) that tell a new key from a known one."""

Keys = Mapping[str, set[tuple[KeyValue, ...]]]
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
        self._recent: dict[RowKey, object | None] = {}
        self._before: dict[RowKey, object | None] = {}
        self._known = KnownKeys() if has_all_keys else None

    def take(self, wanted: Keys) -> tuple[dict[RowKey, object | None], dict[str, set[tuple[KeyValue, ...]]]]:
        """Give the rows of keys as far as it knows them, and the keys whose rows must be read."""
        recent, before, known = self._recent, self._before, self._known
        found: dict[RowKey, object | None] = {}
        missing: dict[str, set[tuple[KeyValue, ...]]] = {}
        for table, keys in wanted.items():
            for values in keys:
                key = RowKey(table, values)
                if key in recent:
                    found[key] = recent[key]
                elif key in before:
                    found[key] = recent[key] = before[key]
                elif known is None or key in known:
                    missing.setdefault(table, set()).add(values)
        return found, missing

    def keep(self, missing: Keys, fetched: Mapping[RowKey, object | None], folded: Folded) -> None:
        """Keep what a batch read (also that there was no row) and put."""
        recent, known = self._recent, self._known
        for table, keys in missing.items():
            for values in keys:
                recent[RowKey(table, values)] = None
        recent.update(fetched)
        for table, put in folded.rows.items():
            for values, rows in put.items():
                key = RowKey(table, values)
                # Positions come in order, so the last one put is the newest.
                recent[key] = next(reversed(rows.values()))
                if known is not None:
                    known.add(key)
        if len(recent) > self._rows_max // 2:
            self._before, self._recent = recent, {}


class KnownKeys:
    """A Bloom filter: says of every key that was added that it was, and of hardly any other."""

    def __init__(self, bits: int = KEY_BITS) -> None:
        """Begin empty, with 2 ** bits bits."""
        self._bits = bits
        self._mask = (1 << bits) - 1
        self._filled = bytearray(1 << (bits - 3))

    def add(self, key: RowKey) -> None:
        """Remember a key."""
        for place in self._places(key):
            self._filled[place >> 3] |= 1 << (place & 7)

    def __contains__(self, key: RowKey) -> bool:
        """Say whether a key may have been added; False is certain."""
        return all(self._filled[place >> 3] >> (place & 7) & 1 for place in self._places(key))

    def _places(self, key: RowKey) -> Iterable[int]:
        hashed = hash(key)
        return hashed & self._mask, (hashed >> self._bits) & self._mask
