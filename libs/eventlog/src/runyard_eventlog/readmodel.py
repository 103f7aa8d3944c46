"""Read-model tables: from a projection's specifications to SQLAlchemy tables, DDL and selects.

A table holds one row for each (key, position) and is never updated. Services build their queries on
``current`` and ``as_of``; both give a subquery of one row a key, to filter and order from outside.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import cache
from operator import attrgetter

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    LargeBinary,
    MetaData,
    Select,
    Subquery,
    Table,
    Text,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeEngine

from runyard_core.projection import Hashed, TableSpec

_SCALARS: Mapping[object, TypeEngine[typing.Any]] = {
    str: Text(collation="C"),
    int: BigInteger(),
    float: Double(),
    bool: Boolean(),
    bytes: LargeBinary(),
}
"""Texts are in the order of their bytes, whatever the database's own is: an index takes half as long to make
and finds beginnings, and pages are in the same order everywhere."""


class Build(StrEnum):
    """Which set of tables of a projection version. The value ends the names of its tables and indexes."""

    LIVE = ""
    """What queries show."""
    NEW = "_new"
    """A rebuild, filled beside the live one."""
    OLD = "_old"
    """What a rebuild took the place of; kept until it is dropped."""
    CHECK = "_check"
    """Scratch of a verification."""


class Index(typing.NamedTuple):
    """An index of a table, and how it is made."""

    name: str
    ddl: str
    key_ddl: str = ""
    """Makes it the primary key, when it is that one."""


def table_name(spec: TableSpec[typing.Any], version: int, build: Build = Build.LIVE) -> str:
    """Give the versioned name of a table: "run_cost_v3"."""
    return f"{spec.name}_v{version}{build}"


@cache
def table(spec: TableSpec[typing.Any], version: int, schema: str, build: Build = Build.LIVE) -> Table:
    """Give the SQLAlchemy table of a specification. The primary key is the key fields and ``position``.

    Raises:
        TypeError: a field has an annotation that has no column type.
    """
    hints = typing.get_type_hints(spec.row_class)
    if hints.get("position") is not int or not set(spec.key) < hints.keys():
        raise TypeError(f"{spec.row_class.__name__} needs its key fields {spec.key} and position: int")
    columns = []
    # The primary key's order is the order of columns, and the index must lead with the key.
    for name in column_names(spec):
        column_type, nullable = _column_type(hints[name], f"{spec.row_class.__name__}.{name}")
        primary = name in spec.key or name == "position"
        columns.append(Column(name, column_type, nullable=nullable, primary_key=primary, autoincrement=False))
    return Table(table_name(spec, version, build), MetaData(schema=schema), *columns)


def as_of(table: Table, position: int | None) -> Subquery:
    """Give the rows as they were at a position, one a key; None means now."""
    return _newest(table, position).subquery(table.name)


def current(table: Table) -> Subquery:
    """Give the current rows, one a key."""
    return as_of(table, None)


def table_ddl(table: Table) -> str:
    """Give the statement that makes a table when it is not there."""
    compiled = CreateTable(table, if_not_exists=True).compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    return str(compiled)


def bare_table_ddl(table: Table) -> str:
    """Give the statement that makes a table without any index: rows are added in a third of the time."""
    columns = [Column(each.name, each.type, nullable=each.nullable) for each in table.columns]
    return table_ddl(Table(table.name, MetaData(schema=table.schema), *columns))


def indexes(
    spec: TableSpec[typing.Any], version: int, schema: str, build: Build = Build.LIVE
) -> Sequence[Index]:
    """Give the indexes of a table, its key first.

    They end like their tables do, so that a swap can rename them all by one rule.
    """
    bare, name = table_name(spec, version), f'"{schema}"."{table_name(spec, version, build)}"'
    if spec.key_index:
        index = f"{bare}_by_key{build}"
        found = [Index(index, f'create index if not exists "{index}" on {name} ({_quoted(spec.key_index)})')]
    else:
        primary, fields = f"{bare}_pkey{build}", _quoted((*spec.key, "position"))
        # In two steps, as only the second one, which takes no time, keeps everybody else from the table.
        found = [
            Index(
                primary,
                f'create unique index if not exists "{primary}" on {name} ({fields})',
                f'alter table {name} add constraint "{primary}" primary key using index "{primary}"',
            )
        ]
    for number, further in enumerate(spec.indexes, start=1):
        index = f"{bare}_by_{number}{build}"
        found.append(Index(index, f'create index if not exists "{index}" on {name} ({_quoted(further)})'))
    return found


def view_ddl(spec: TableSpec[typing.Any], version: int, schema: str) -> str:
    """Give the statement that points the unversioned view at the current rows of a version."""
    selected = _newest(table(spec, version, schema), None).compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    return f'create or replace view "{schema}"."{spec.name}" as {selected}'


def array_type(spec: TableSpec[typing.Any], field: str) -> str:
    """Give the Postgres array type that carries values of a key field."""
    return "bigint[]" if typing.get_type_hints(spec.row_class)[field] is int else "text[]"


def column_names(spec: TableSpec[typing.Any]) -> tuple[str, ...]:
    """Give the names of the columns of a table in their order."""
    names = typing.get_type_hints(spec.row_class)
    return (*spec.key, "position", *(name for name in names if name not in (*spec.key, "position")))


@cache
def values_of(spec: TableSpec[typing.Any]) -> Callable[[object], tuple[object, ...]]:
    """Give the function from a row to its values in the order of the columns."""
    if is_written_as_it_is(spec):
        return lambda row: typing.cast("tuple[object, ...]", row)
    # A key field and the position are at least two names, for which attrgetter gives a tuple.
    return attrgetter(*column_names(spec))


def is_written_as_it_is(spec: TableSpec[typing.Any]) -> bool:
    """Say whether a row of this class is already the tuple of its columns."""
    return issubclass(spec.row_class, tuple) and column_names(spec) == spec.row_class._fields  # type: ignore[attr-defined]


def row_from(spec: TableSpec[typing.Any], values: Mapping[str, object]) -> object:
    """Make a row from what the database gave; arrays become tuples again."""
    return spec.row_class(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )


def hash_of(text: str, number: str) -> str:
    """Give the expression of a hash of two others, as indexes with ``Hashed`` have it."""
    return f"hashtextextended({text}, {number})"


def _quoted(fields: Iterable[str | Hashed]) -> str:
    return ", ".join(
        hash_of(f'"{field.text}"', f'"{field.number}"') if isinstance(field, Hashed) else f'"{field}"'
        for field in fields
    )


def _newest(table: Table, position: int | None) -> Select[typing.Any]:
    key = [column for column in table.primary_key.columns if column.name != "position"]
    found = select(table).ext(postgresql.distinct_on(*key)).order_by(*key, table.c.position.desc())
    return found if position is None else found.where(table.c.position <= position)


def _column_type(annotation: object, where: str) -> tuple[TypeEngine[typing.Any], bool]:
    nullable = False
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        if len(members) != 1:
            raise TypeError(f"{where}: no column type for {annotation}")
        annotation, nullable = members[0], True
    if isinstance(annotation, typing.NewType):
        annotation = annotation.__supertype__
    if annotation is datetime:
        return DateTime(timezone=True), nullable
    if typing.get_origin(annotation) is tuple:
        item, *rest = typing.get_args(annotation)
        if rest == [Ellipsis] and item in _SCALARS:
            return ARRAY(Text() if item is str else _SCALARS[item]), nullable
    if annotation in _SCALARS:
        return _SCALARS[annotation], nullable
    raise TypeError(f"{where}: no column type for {annotation}")
