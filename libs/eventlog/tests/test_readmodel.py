"""Tables out of specifications."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import pytest

from runyard_contracts.ids import RunId
from runyard_core.projection import TableSpec
from runyard_eventlog import readmodel


@dataclass(frozen=True, slots=True)
class EveryType:
    position: int
    project: str
    number: int
    run_id: RunId
    ratio: float
    is_done: bool
    raw: bytes
    at: datetime
    ended: datetime | None
    detail: str | None
    tags: tuple[str, ...]
    counts: tuple[int, ...] | None


EVERY = TableSpec("every", EveryType, ("project", "number"))


def test_every_annotation_has_its_column_type() -> None:
    ddl = " ".join(readmodel.table_ddl(readmodel.table(EVERY, 3, "cost")).split())
    assert ddl == (
        'CREATE TABLE IF NOT EXISTS cost.every_v3 ( project TEXT COLLATE "C" NOT NULL, '
        'number BIGINT NOT NULL, position BIGINT NOT NULL, run_id TEXT COLLATE "C" NOT NULL, '
        "ratio DOUBLE PRECISION NOT NULL, "
        "is_done BOOLEAN NOT NULL, raw BYTEA NOT NULL, at TIMESTAMP WITH TIME ZONE NOT NULL, "
        'ended TIMESTAMP WITH TIME ZONE, detail TEXT COLLATE "C", tags TEXT[] NOT NULL, counts BIGINT[], '
        "PRIMARY KEY (project, number, position) )"
    )


def test_a_build_is_filled_bare_and_gets_its_indexes_later() -> None:
    spec = TableSpec("every", EveryType, ("project", "number"), indexes=(("run_id", "position"),))
    build = readmodel.Build.NEW
    ddl = readmodel.bare_table_ddl(readmodel.table(spec, 3, "cost", build))
    assert "cost.every_v3_new" in ddl
    assert "PRIMARY KEY" not in ddl
    assert "position BIGINT NOT NULL" in ddl
    key, other = readmodel.indexes(spec, 3, "cost", build)
    assert (key.name, other.name) == ("every_v3_pkey_new", "every_v3_by_1_new")
    table = '"cost"."every_v3_new"'
    assert key.ddl.endswith(f'index if not exists "{key.name}" on {table} ("project", "number", "position")')
    assert (
        key.key_ddl == f'alter table {table} add constraint "{key.name}" primary key using index "{key.name}"'
    )
    assert other.ddl == f'create index if not exists "{other.name}" on {table} ("run_id", "position")'
    assert not other.key_ddl


def test_a_table_found_by_the_beginning_of_its_key_has_a_smaller_index_for_its_key() -> None:
    spec = TableSpec("every", EveryType, ("project", "number"), key_index=("project", "position"))
    (key,) = readmodel.indexes(spec, 3, "cost", readmodel.Build.NEW)
    assert key.ddl == (
        'create index if not exists "every_v3_by_key_new" on "cost"."every_v3_new" ("project", "position")'
    )
    assert not key.key_ddl


class AsItIs(NamedTuple):
    run_id: str
    position: int
    tags: tuple[str, ...]


class OtherOrder(NamedTuple):
    position: int
    run_id: str


def test_a_named_tuple_that_begins_with_its_key_is_written_as_it_is() -> None:
    row = AsItIs("r", 1, ("a",))
    spec = TableSpec("named", AsItIs, ("run_id",))
    assert readmodel.values_of(spec)(row) is row
    assert readmodel.row_from(spec, {"run_id": "r", "position": 1, "tags": ["a"]}) == row
    other = TableSpec("other", OtherOrder, ("run_id",))
    assert not readmodel.is_written_as_it_is(other)
    assert readmodel.values_of(other)(OtherOrder(1, "r")) == ("r", 1)


def test_the_view_shows_the_newest_row_of_each_key() -> None:
    ddl = " ".join(readmodel.view_ddl(EVERY, 3, "cost").split())
    assert ddl.startswith('create or replace view "cost"."every" as SELECT DISTINCT ON ')
    assert "(cost.every_v3.project, cost.every_v3.number)" in ddl
    assert ddl.endswith("ORDER BY cost.every_v3.project, cost.every_v3.number, cost.every_v3.position DESC")


def test_as_of_looks_no_further_than_its_position() -> None:
    query = str(readmodel.as_of(readmodel.table(EVERY, 3, "cost"), 7).element)
    assert "position <= " in query
    assert "position <= " not in str(readmodel.current(readmodel.table(EVERY, 3, "cost")).element)


@dataclass(frozen=True, slots=True)
class NoPosition:
    run_id: str


@dataclass(frozen=True, slots=True)
class OddType:
    run_id: str
    position: int
    things: dict[str, int]


@pytest.mark.parametrize("row_class", [NoPosition, OddType])
def test_a_row_class_without_a_column_type_or_position_is_refused(row_class: type[object]) -> None:
    with pytest.raises(TypeError, match=row_class.__name__):
        readmodel.table(TableSpec("bad", row_class, ("run_id",)), 1, "cost")


def test_arrays_come_back_as_tuples() -> None:
    row = EveryType(1, "p", 2, RunId("r"), 0.5, True, b"x", datetime.min, None, None, ("a", "b"), None)  # noqa: DTZ901
    names = [column.name for column in readmodel.table(EVERY, 3, "cost").columns]
    stored = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in zip(names, readmodel.values_of(EVERY)(row), strict=True)
    }
    assert readmodel.row_from(EVERY, stored) == row
