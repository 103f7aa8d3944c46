"""What a fill remembers of its own rows is what a look into the table would give."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from runyard_core.projection import KeyValue, RowKey
from runyard_eventlog.folding import Folded
from runyard_eventlog.row_cache import KnownKeys, RowCache

TABLES = ("a", "b")


@settings(max_examples=30, deadline=None)
@given(chance=st.randoms(use_true_random=False), rows_max=st.integers(0, 12), begins_empty=st.booleans())
def test_cache_and_table_together_give_the_newest_row_of_every_key(
    chance: Random, rows_max: int, begins_empty: bool
) -> None:
    stored: dict[RowKey, object] = {} if begins_empty else {RowKey("a", (1,)): 0, RowKey("b", (2,)): 0}
    newest = dict(stored)
    cache = RowCache(has_all_keys=begins_empty, rows_max=rows_max)
    unwritten: dict[RowKey, object] = {}
    for batch in range(1, 8):
        wanted: dict[str, set[tuple[KeyValue, ...]]] = {
            table: {(chance.randrange(5),) for _ in range(3)} for table in TABLES
        }
        found, missing = cache.take(wanted)
        # The batch before this one is still being written.
        fetched: dict[RowKey, object | None] = {
            key: stored[key]
            for key in (RowKey(table, values) for table, keys in missing.items() for values in keys)
            if key in stored
        }
        rows = found | fetched
        for table, keys in wanted.items():
            for values in keys:
                assert rows.get(RowKey(table, values)) == newest.get(RowKey(table, values))
        stored |= unwritten
        folded = Folded()
        unwritten = {}
        for table, keys in wanted.items():
            for values in keys:
                if chance.random() < 0.5:
                    folded.rows.setdefault(table, {})[values] = {batch: -batch, batch + 100: batch}
                    unwritten[RowKey(table, values)] = newest[RowKey(table, values)] = batch
        cache.keep(missing, fetched, folded)


def test_a_key_that_was_added_is_known_and_hardly_any_other() -> None:
    known = KnownKeys(bits=16)
    keys = [(number, "text") for number in range(1_000)]
    known.add_all("edge", keys)
    assert all(known.has("edge", key) for key in keys)
    assert sum(known.has("vertex", key) for key in keys) < 20
