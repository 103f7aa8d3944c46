"""The builds of a projection beside each other: indexes copied, names swapped, old ones dropped."""

# ruff: noqa: S608 - only names from the code and from the catalogue are put into statements

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from runyard_contracts.ids import Position
from runyard_core.projection import Projection
from runyard_eventlog import readmodel
from runyard_eventlog.connections import Connection
from runyard_eventlog.readmodel import Build
from runyard_eventlog.shown_view import point_view

_NAME_MAX = 63
"""Bytes of a name that PostgreSQL keeps; it cuts off the rest."""
_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX \S+ ON \S+ (?P<rest>USING .*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class KeptBuild:
    """A set of tables of a projection, as it is in the database."""

    version: int
    build: Build
    position: Position
    tables: tuple[str, ...]
    size_bytes: int
    """With indexes."""


class Builds:
    """The tables of one projection in one schema, over all versions and builds."""

    def __init__(self, projection: Projection[Any], schema: str) -> None:
        self._projection = projection
        self._schema = schema

    async def kept(self, connection: Connection) -> list[KeptBuild]:
        """Give every build that has tables, the newest version first."""
        rows = await connection.fetch(
            f"""
            select c.version, c.build, c.position, c.tables, (
              select coalesce(sum(pg_total_relation_size(to_regclass(format('%I.%I', $2::text, t)))), 0)
              from unnest(c.tables) t)::bigint as size_bytes
            from {self._schema}.projection_checkpoint c
            where c.projection = $1 order by c.version desc, c.build
            """,
            self._projection.name,
            self._schema,
        )
        return [
            KeptBuild(
                row["version"],
                Build(row["build"]),
                Position(row["position"]),
                tuple(row["tables"]),
                row["size_bytes"],
            )
            for row in rows
        ]

    async def drop(self, connection: Connection, build: KeptBuild) -> None:
        """Drop the tables of a build and forget it, within the caller's transaction."""
        # Its checkpoint first: whoever writes a batch holds that before it touches a table.
        for bookkeeping in ("projection_checkpoint", "projection_parked"):
            await connection.execute(
                f"delete from {self._schema}.{bookkeeping} where (projection, version, build) = ($1, $2, $3)",
                self._projection.name,
                build.version,
                str(build.build),
            )
        for table in build.tables:
            await connection.execute(f'drop table if exists "{self._schema}"."{table}" cascade')

    async def copy_indexes(self, connection: Connection) -> None:
        """Give the new build the indexes that the live one has and it has not."""
        for live, new in self._tables(Build.LIVE, Build.NEW):
            there = await self._indexes(connection, new)
            for name, definition in (await self._indexes(connection, live)).items():
                parsed = _INDEX.fullmatch(definition)
                name_there = _index_name(name, Build.NEW)
                if name_there in there or parsed is None:
                    continue
                unique = parsed[1] or ""
                await connection.execute(
                    f'create {unique}index "{name_there}" on "{self._schema}"."{new}" {parsed["rest"]}'
                )
            await connection.execute(f'analyze "{self._schema}"."{new}"')

    async def take_back(self, connection: Connection) -> None:
        """Make the old build the new one, within the caller's transaction: a rebuild goes on from there."""
        await self._rename(connection, Build.OLD, Build.NEW)

    async def swap(self, connection: Connection) -> None:
        """Make the new build the live one, and the live one the old one, within the caller's transaction."""
        await self._rename(connection, Build.LIVE, Build.OLD)
        await self._rename(connection, Build.NEW, Build.LIVE)
        for spec in self._projection.tables:
            await point_view(connection, spec, self._projection.version, self._schema)

    async def _rename(self, connection: Connection, source: Build, target: Build) -> None:
        for table, renamed in self._tables(source, target):
            for name in await self._indexes(connection, table):
                bare = name.removesuffix(source) if source else name
                new_name = _index_name(bare, target)
                await connection.execute(f'alter index "{self._schema}"."{name}" rename to "{new_name}"')
            await connection.execute(f'alter table "{self._schema}"."{table}" rename to "{renamed}"')
        await self._move(connection, source, target)

    async def _move(self, connection: Connection, source: Build, target: Build) -> None:
        moved = (self._projection.name, self._projection.version, str(source), str(target))
        # The epoch grows beyond that of every build of this version: no projector mistakes one for another.
        await connection.execute(
            f"""
            update {self._schema}.projection_checkpoint c set build = $4, tables = $5, epoch = (
              select max(o.epoch) + 1 from {self._schema}.projection_checkpoint o
              where (o.projection, o.version) = ($1, $2))
            where (projection, version, build) = ($1, $2, $3)
            """,
            *moved,
            [
                readmodel.table_name(spec, self._projection.version, target)
                for spec in self._projection.tables
            ],
        )
        await connection.execute(
            f"""
            update {self._schema}.projection_parked set build = $4
            where (projection, version, build) = ($1, $2, $3)
            """,
            *moved,
        )

    def _tables(self, source: Build, target: Build) -> list[tuple[str, str]]:
        version = self._projection.version
        return [
            (readmodel.table_name(spec, version, source), readmodel.table_name(spec, version, target))
            for spec in self._projection.tables
        ]

    async def _indexes(self, connection: Connection, table: str) -> dict[str, str]:
        rows = await connection.fetch(
            "select indexname, indexdef from pg_indexes where (schemaname, tablename) = ($1, $2)",
            self._schema,
            table,
        )
        return {row["indexname"]: row["indexdef"] for row in rows}


def _index_name(bare: str, build: Build) -> str:
    """Name an index of a build; a long name loses its end, so that it still is the build's."""
    return f"{bare[: _NAME_MAX - len(build)]}{build}"
