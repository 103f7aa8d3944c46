"""Two builds of a projection, compared: counts and checksums a table, and the first rows that differ.

Tables are append-only, so two builds that both have come past a position are compared up to it while both
go on: what is there of them does not change any more.
"""

# ruff: noqa: S608 - only names from the code are put into statements

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runyard.projection.v1.types_pb2 import RowDifference, TableComparison
from runyard_core.projection import Projection, TableSpec
from runyard_eventlog import readmodel
from runyard_eventlog.connections import Connection
from runyard_eventlog.readmodel import Build

DIFFERENCES_MAX = 20
"""Most rows that are named."""
VALUE_CHARACTERS_MAX = 1_000
"""Most of one value of such a row; a longer one is cut. So all of them go into a message."""

_WORD = 2**64


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of a comparison."""

    position: int
    """Rows up to here were compared."""
    tables: Sequence[TableComparison]
    differences: Sequence[RowDifference]
    """The first ones."""

    @property
    def is_equal(self) -> bool:
        """True when every table has the same rows in both."""
        return all(
            (table.live_row_count, table.live_checksum) == (table.rebuilt_row_count, table.rebuilt_checksum)
            for table in self.tables
        )


async def compare(
    connection: Connection, projection: Projection[Any], schema: str, build: Build, position: int
) -> Comparison:
    """Compare a build with the live one, up to a position that both have come past."""
    tables: list[TableComparison] = []
    differences: list[RowDifference] = []
    # One snapshot, so that no table is swapped in between; UTC, so that a checksum means the same everywhere.
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("set local timezone = 'UTC'")
        for spec in projection.tables:
            names = [
                f'"{schema}"."{readmodel.table_name(spec, projection.version, each)}"'
                for each in (Build.LIVE, build)
            ]
            live, rebuilt = [await _sums(connection, name, position) for name in names]
            tables.append(
                TableComparison(
                    table=spec.name,
                    live_row_count=live[0],
                    live_checksum=live[1],
                    rebuilt_row_count=rebuilt[0],
                    rebuilt_checksum=rebuilt[1],
                )
            )
            if live != rebuilt and len(differences) < DIFFERENCES_MAX:
                left = DIFFERENCES_MAX - len(differences)
                differences += await _differences(connection, spec, names, position, left)
    return Comparison(position, tables, differences)


async def _sums(connection: Connection, name: str, position: int) -> tuple[int, str]:
    # The inner select is kept apart by "offset 0", or each row would be written out twice.
    (row,) = await connection.fetch(
        f"""
        select count(*) as rows, coalesce(sum(hashtextextended(line, 0)), 0) as first,
          coalesce(sum(hashtextextended(line, 1)), 0) as second
        from (select t::text as line from {name} t where position <= $1 offset 0) lines
        """,
        position,
    )
    checksum = int(row["first"]) % _WORD << 64 | int(row["second"]) % _WORD
    return row["rows"], f"{checksum:032x}"


async def _differences(
    connection: Connection, spec: TableSpec[Any], names: Sequence[str], position: int, limit: int
) -> list[RowDifference]:
    live, rebuilt = names
    key = [f'"{field}"' for field in (*spec.key, "position")]
    pairs = ", ".join(f'\'{field}\', coalesce(a."{field}", b."{field}")' for field in spec.key)
    rows = await connection.fetch(
        f"""
        select jsonb_build_object({pairs})::text as key, coalesce(a.position, b.position) as position,
          coalesce({_shown("a")}, '') as live, coalesce({_shown("b")}, '') as rebuilt
        from (select * from {live} where position <= $1) a
        full join (select * from {rebuilt} where position <= $1) b
          on {" and ".join(f"a.{column} = b.{column}" for column in key)}
        where a::text is distinct from b::text
        order by 2, 1 limit $2
        """,
        position,
        limit,
    )
    return [
        RowDifference(
            table=spec.name,
            key_json=row["key"],
            position=row["position"],
            live_row_json=row["live"],
            rebuilt_row_json=row["rebuilt"],
        )
        for row in rows
    ]


def _shown(row: str) -> str:
    """Write a row as a JSON object for people: of a value that may be megabytes the beginning and a hash."""
    return f"""(
      select jsonb_object_agg(key, case when length(said) <= {VALUE_CHARACTERS_MAX} then value else to_jsonb(
        format('%s... (%s characters, MD5 %s)', left(said, {VALUE_CHARACTERS_MAX}), length(said), md5(said))
      ) end)::text
      from jsonb_each(to_jsonb({row}))
      cross join lateral (select coalesce(value #>> '{{}}', '') as said) as text)"""
