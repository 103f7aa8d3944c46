"""What a fold remembers of its own rows is what a look into the table would give."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard_core.projection import RowKey, TableSpec
from runyard_eventlog.row_cache import KnownKeys, RowCache, RowMissingError


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    position: int


TABLES = (TableSpec("a", Row, ("number",)), TableSpec("b", Row, ("number",)))


@settings(max_examples=30, deadline=None)
@given(chance=st.randoms(use_true_random=False), rows_max=st.integers(0, 12), begins_empty=st.booleans())
def test_cache_and_table_together_give_the_newest_row_of_every_key(
    chance: Random, rows_max: int, begins_empty: bool
) -> None:
    stored = {} if begins_empty else {RowKey("a", (1,)): Row(1, 0), RowKey("b", (2,)): Row(2, 0)}
    newest = dict(stored)
    cache = RowCache(has_all_keys=begins_empty, rows_max=rows_max, key_bits=8)
    unwritten: dict[RowKey, Row] = {}
    for batch in range(1, 8):
        now: dict[RowKey, Row] = {}
        for _ in range(4):
            table, number = chance.choice(TABLES), chance.randrange(5)
            key = RowKey(table.name, (number,))
            # The batch before this one is still being written.
            assert _looked_at(cache, table, number, stored) == newest.get(key)
            if chance.random() < 0.5:
                now[key] = newest[key] = Row(number, batch)
                cache.of(table.name)[number,] = newest[key]
        stored |= unwritten
        unwritten = now
        cache.turn()


@dataclass(frozen=True, slots=True)
class Document:
    number: int
    position: int
    content: bytes = b""
    text: str = ""
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


DOCUMENTS = TableSpec("document", Document, ("number",))


@pytest.mark.parametrize(
    "content",
    [{"content": b"x" * 200}, {"text": "x" * 200}, {"texts": ("x" * 100,) * 2}, {"numbers": (1,) * 6}],
)
def test_large_rows_are_forgotten_sooner(content: dict[str, Any]) -> None:
    cache = RowCache([DOCUMENTS], has_all_keys=True, bytes_max=1_000)
    for number in range(20):
        cache.of(DOCUMENTS.name)[number,] = Document(number, number, **content)
        cache.turn()
    kept = _kept(cache, 20)
    assert kept == list(range(20 - len(kept), 20))
    assert 1 <= len(kept) <= 6


def test_of_many_rows_only_some_are_weighed_and_stand_for_the_others() -> None:
    cache = RowCache([DOCUMENTS], has_all_keys=True, bytes_max=2_000_000)
    count = 20_000
    for number in range(count):
        # A few hold nearly everything.
        text = "x" * (20_000 if number % 50 == 7 else 10)
        cache.of(DOCUMENTS.name)[number,] = Document(number, number, text=text)
        if number % 100 == 0:
            cache.turn()
    assert 1_000 < len(_kept(cache, count)) < 10_000


def _kept(cache: RowCache, count: int) -> list[int]:
    kept: list[int] = []
    for number in range(count):
        with suppress(RowMissingError):
            row = cache.get(DOCUMENTS, number)
            assert row is not None
            assert row.number == number
            kept.append(number)
    return kept


def _looked_at(
    cache: RowCache, table: TableSpec[Row], number: int, stored: Mapping[RowKey, Row]
) -> Row | None:
    key = RowKey(table.name, (number,))
    try:
        return cache.get(table, number)
    except RowMissingError:
        missing = cache.missing([key])
        assert missing == {table.name: {(number,)}}
        cache.supply(missing, {key: stored[key]} if key in stored else {})
        return cache.get(table, number)


def test_a_key_that_was_added_is_known_and_hardly_any_other() -> None:
    known = KnownKeys(bits=16)
    keys = [(number, "text") for number in range(1_000)]
    known.add_all("edge", keys)
    assert all(known.has("edge", key) for key in keys)
    assert sum(known.has("vertex", key) for key in keys) < 20
