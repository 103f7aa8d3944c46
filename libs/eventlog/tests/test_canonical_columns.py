"""Rows that are compared column by column are the same only when every byte of every value is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard_eventlog.difference import Kind
from runyard_eventlog.segment_file import SegmentColumns
from runyard_eventlog.stored_columns import StoredColumns
from runyard_eventlog.stored_event import StoredEvent, canonical_bytes
from runyard_testkit.engines import run

from .sealed import SIZE, changed_rows, findings, flips, make_yard
from .sealed import flipped as flip
from .stored import DOMAIN, LANES, Yard, columns_of

# Arrow alone takes a quarter of a second to be there.
pytestmark = pytest.mark.system

COUNT = 9
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = ("", "a", "ä", "b" * 300)


def rows() -> list[StoredEvent]:
    """Give rows with values of every length, some of them none."""
    return [
        StoredEvent(
            position=number + 1,
            after_position=number % 3,
            version=2 * number + 1,
            recorded_at=BEGAN + timedelta(microseconds=number),
            event_id=UUID(int=number + 2**100),
            causation_id=UUID(int=number) if number % 2 else None,
            stream=f"run-{number}",
            type=TEXTS[number % 4],
            correlation_id=TEXTS[(number + 1) % 4],
            actor=TEXTS[(number + 2) % 4],
            payload=bytes(range(20 * number)),
        )
        for number in range(COUNT)
    ]


FILE = SegmentColumns.of_events(rows()).to_parquet()


def is_same(stored: Sequence[StoredColumns], begin: int = 0) -> bool:
    return SegmentColumns.of_parquet(FILE).canonical.are_rows(stored, begin)


@given(cuts=st.sets(st.integers(1, COUNT - 1)), begin=st.integers(0, COUNT))
def test_rows_are_the_same_however_they_are_cut(cuts: set[int], begin: int) -> None:
    places = sorted({begin, COUNT, *(cut for cut in cuts if cut > begin)})
    found = [columns_of(rows()[first:last]) for first, last in pairwise(places)]
    assert is_same(found, begin)
    assert [one for some in found for one in some.canonical(DOMAIN)] == [
        canonical_bytes(row, DOMAIN) for row in rows()[begin:]
    ]


@given(column=st.integers(0, 12), place=flips)
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_in_any_column_is_seen(column: int, place: tuple[int, int]) -> None:
    stored = columns_of(rows())
    columns = [*stored.fixed, *stored.bodies]
    columns[column] = flip(columns[column], place)
    assert not is_same([StoredColumns(tuple(columns[:7]), tuple(columns[7:]))])


@given(number=st.integers(0, COUNT - 2), name=st.sampled_from(["stream", "payload"]))
@settings(max_examples=15, deadline=None)
def test_a_byte_that_moved_to_the_next_row_is_seen(number: int, name: str) -> None:
    made = rows()
    left, right = getattr(made[number], name), getattr(made[number + 1], name)
    made[number] = made[number]._replace(**{name: left + right[:1]})
    made[number + 1] = made[number + 1]._replace(**{name: right[1:]})
    assert columns_of(made).bodies == columns_of(rows()).bodies
    assert not is_same([columns_of(made)])


def test_rows_that_are_missing_added_twice_or_out_of_order_are_seen() -> None:
    made = rows()
    added = made[-1]._replace(position=COUNT + 1)
    others = [made[1:], made[:-1], made[:4] + made[5:], [*made, added], [*made, made[-1]], made[::-1], []]
    assert is_same([columns_of(made)])
    assert [is_same([columns_of(other)]) for other in others] == [False] * len(others)
    assert not is_same([columns_of(made)], begin=1)


def test_no_rows_are_the_same_as_no_events() -> None:
    nothing = SegmentColumns.of_events([]).canonical
    assert nothing.are_rows([], 0)
    assert nothing.leaf_hashes(DOMAIN) == []
    assert not nothing.are_rows([columns_of(rows())], 0)


def test_what_differs_in_one_column_is_named_by_segment_and_event(tmp_path: Path) -> None:
    yard: Yard = run(make_yard(tmp_path))
    first, second = yard.stored.rows(DOMAIN)[SIZE : SIZE + 2]
    # The columns of text hold the same bytes as before, one of them in another row.
    moved: dict[int, StoredEvent | None] = {
        first.position: first._replace(actor=first.actor + second.actor[:1]),
        second.position: second._replace(actor=second.actor[1:]),
    }
    with changed_rows(yard, moved):
        found = run(findings(yard, lanes=LANES))
    assert [(one.kind, one.segment, one.position, one.event_id, one.where) for one in found] == [
        (Kind.CHANGED, 2, row.position, str(row.event_id), "database") for row in (first, second)
    ]
    assert {one.detail for one in found} == {"differs from the archive in actor"}
