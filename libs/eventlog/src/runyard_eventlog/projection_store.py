"""What a projector keeps in its service's schema: tables, checkpoint, parked events."""

# ruff: noqa: S608 - only names from the code are put into statements

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

import asyncpg

from runyard_contracts.ids import Position
from runyard_core.projection import KeyValue, Projection, RowKey, TableSpec
from runyard_core.task_group import TaskGroup
from runyard_eventlog import bookkeeping, readmodel
from runyard_eventlog.connections import Connection
from runyard_eventlog.folding import Folded, Parked
from runyard_eventlog.readmodel import Build, Index
from runyard_eventlog.shown_view import point_view

_NOT_WAITING = "set_config('synchronous_commit', 'off', true)"
"""In a select: the transaction's commit does not wait for the disk."""
_ALONE = "set_config('min_parallel_table_scan_size', '128MB', true)"
"""In a select: no parallel workers for an index of a smaller table, where they cost more than they do."""


class PlaceMovedError(Exception):
    """The stored checkpoint is not where this projector left it: another process works on it too."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a build of a projection stands."""

    position: Position
    parked_streams: frozenset[str]
    """Streams with an event that could not be applied; their later events wait behind it."""
    epoch: int = 0
    """Changed by whoever else changes the build: a rebuild that took its place, events that were requeued."""
    disputes_position: Position = Position(0)  # noqa: RUF009 - a NewType call is a value
    """Events that were disputed by here are left out."""


class ProjectionStore:
    """The statements of one build of a projection version in one schema."""

    def __init__(self, projection: Projection[Any], schema: str, build: Build = Build.LIVE) -> None:
        self._name = projection.name
        self._version = projection.version
        self._schema = schema
        self._build = build
        self._specs: dict[str, TableSpec[Any]] = {spec.name: spec for spec in projection.tables}
        self._identity = (self._name, self._version, str(build))
        self.is_indexed = build in (Build.LIVE, Build.OLD)
        """Whether its rows can be read back: a build may have been filled without indexes."""
        self._lookups = {name: self._newest_of_keys(spec) for name, spec in self._specs.items()}

    async def create(self, connection: Connection, *, disputes_position: int | None = None) -> None:
        """Make what is missing. Safe beside other processes that do the same.

        What is there is only looked at: nobody's batch waits for this, nor this for a batch.

        Args:
            connection: of the role that owns the schema.
            disputes_position: a build that begins leaves out what is disputed there; None means by now.
        """
        async with connection.transaction():
            await bookkeeping.prepare(connection, self._schema)
            for spec in self._specs.values():
                await self._create_table(connection, spec)
            await connection.execute(
                f"""
                insert into {self._schema}.projection_checkpoint
                  (projection, version, build, position, tables, disputes_position)
                select $1, $2, $3, 0, $4::text[], coalesce($5,
                  (select position from log.domain_event order by position desc limit 1), 0)
                where not exists (
                  select from {self._schema}.projection_checkpoint c
                  where (c.projection, c.version, c.build, c.tables) = ($1, $2, $3, $4::text[]))
                on conflict (projection, version, build) do update set tables = excluded.tables
                where projection_checkpoint.tables <> excluded.tables
                """,
                *self._identity,
                [readmodel.table_name(spec, self._version, self._build) for spec in self._specs.values()],
                disputes_position,
            )

    async def show(self, connection: Connection) -> None:
        """Point the unversioned views at this version, unless they show it or a newer one."""
        for spec in self._specs.values():
            shown = await connection.fetchval(
                """
                select min(d.refobjid::regclass::text) from pg_rewrite r join pg_depend d on d.objid = r.oid
                where r.ev_class = to_regclass($1) and d.refclassid = 'pg_class'::regclass
                  and d.refobjid <> r.ev_class
                """,
                f'"{self._schema}"."{spec.name}"',
            )
            if shown is None or int(shown.rpartition("_v")[2].strip('"')) < self._version:
                async with connection.transaction():
                    await point_view(connection, spec, self._version, self._schema)

    async def place(self, connection: Connection) -> Place:
        """Read where the build stands."""
        (row,) = await connection.fetch(
            f"""
            select position, epoch, disputes_position from {self._schema}.projection_checkpoint
            where (projection, version, build) = ($1, $2, $3)
            """,
            *self._identity,
        )
        streams = await connection.fetch(
            f"""
            select distinct stream from {self._schema}.projection_parked
            where (projection, version, build) = ($1, $2, $3) and reason <> 'UNDECODABLE'
            """,
            *self._identity,
        )
        return Place(
            Position(row["position"]),
            frozenset(stream["stream"] for stream in streams),
            row["epoch"],
            Position(row["disputes_position"]),
        )

    async def parked_at(self, connection: Connection) -> list[datetime]:
        """Read when each parked event was parked."""
        rows = await connection.fetch(
            f"""
            select parked_at from {self._schema}.projection_parked
            where (projection, version, build) = ($1, $2, $3)
            """,
            *self._identity,
        )
        return [row["parked_at"] for row in rows]

    async def lock(self, connection: Connection, place: Place | None = None) -> Position:
        """Hold the checkpoint until the transaction ends; gives its position.

        Raises:
            PlaceMovedError: it is not where this projector left it.
        """
        return await self._lock(connection, place, "on")

    async def lock_to_write(self, connection: Connection, place: Place) -> None:
        """Hold the checkpoint for the next batch; its commit waits for the disk only if tables are live.

        If the database loses the last batches of a build with their checkpoint, they are folded once more;
        the swap waits for the disk, and brings them there first. Of live tables somebody may have been told
        that they show a position.

        Raises:
            PlaceMovedError: it is not where this projector left it.
        """
        await self._lock(connection, place, "on" if self._build is Build.LIVE else "off")

    @asynccontextmanager
    async def batch(self, pool: asyncpg.Pool, place: Place) -> AsyncIterator[Connection]:
        """Give the transaction of the next batch, which holds the checkpoint; raises as ``lock_to_write``."""
        async with pool.acquire() as connection, connection.transaction():
            await self.lock_to_write(connection, place)
            yield connection

    async def index(self, pool: asyncpg.Pool) -> None:
        """Make the indexes of a build that was filled without them. Safe beside others, and after a kill.

        A build has none until rows must be read back: making them at the end costs a third. Two are made at
        once. Like its batches they do not wait for the disk: those that the database loses are made again.

        Raises:
            PlaceMovedError: the build is not there any more.
        """
        if self.is_indexed:
            return
        async with pool.acquire() as connection, connection.transaction():
            # Whoever writes a batch holds the checkpoint before it touches a table: so neither waits for a
            # table of the other.
            await self._lock(connection, None, "off")
            await connection.execute(f"select {_ALONE}")
            indexes = await self._indexes(connection)
            left = iter(indexes)
            async with TaskGroup() as group:
                group.create_task(_make(left, connection))
                group.create_task(_make_beside(left, pool))
            keys = await connection.fetch(
                "select conname from pg_constraint where connamespace = $1::regnamespace", self._schema
            )
            made = {row["conname"] for row in keys}
            for index in indexes:
                if index.key_ddl and index.name not in made:
                    await connection.execute(index.key_ddl)
        self.is_indexed = True

    async def _indexes(self, connection: Connection) -> list[Index]:
        """Give the indexes of the largest table first, so that both makers end at about the same time."""
        sizes: list[tuple[int, TableSpec[Any]]] = []
        for spec in self._specs.values():
            table = f'"{self._schema}"."{readmodel.table_name(spec, self._version, self._build)}"'
            size = await connection.fetchval("select pg_relation_size($1::regclass)", table)
            sizes.append((size, spec))
        return [
            index
            for _, spec in sorted(sizes, key=itemgetter(0), reverse=True)
            for index in readmodel.indexes(spec, self._version, self._schema, self._build)
        ]

    async def fetch(
        self,
        connection: Connection,
        wanted: Mapping[str, set[tuple[KeyValue, ...]]],
        *,
        to_position: int | None = None,
    ) -> dict[RowKey, object | None]:
        """Read the rows of keys, one query a table: the current ones, or those up to a position.

        Raises:
            asyncpg.CharacterNotInRepertoireError: a key has a NUL; see ``storable``.
        """
        found: dict[RowKey, object | None] = {}
        for name, keys in wanted.items():
            spec = self._specs[name]
            # Sorted, so that the lookups walk the index in its order.
            columns = [list(column) for column in zip(*sorted(keys, key=repr), strict=True)]
            for row in await connection.fetch(self._lookups[name], *columns, to_position):
                values = dict(row)
                found[RowKey(name, tuple(values[field] for field in spec.key))] = readmodel.row_from(
                    spec, values
                )
        return found

    async def write(self, connection: Connection, folded: Folded, position: Position) -> None:
        """Store new rows and parked events, and move the checkpoint.

        Raises:
            asyncpg.CharacterNotInRepertoireError: a text has a NUL; see ``storable``.
        """
        await self.write_rows(connection, folded)
        if folded.parked:
            await self.park(connection, folded.parked)
        await connection.execute(
            f"""
            update {self._schema}.projection_checkpoint set position = $4, moved_at = now()
            where (projection, version, build) = ($1, $2, $3)
            """,
            *self._identity,
            position,
        )

    async def write_rows(self, connection: Connection, folded: Folded) -> None:
        """Store new rows; raises as ``write``."""
        for name, rows in folded.rows.items():
            if not rows:
                continue
            spec = self._specs[name]
            as_they_are = readmodel.is_written_as_it_is(spec)
            records = rows if as_they_are else map(readmodel.values_of(spec), rows)
            await connection.copy_records_to_table(
                readmodel.table_name(spec, self._version, self._build),
                schema_name=self._schema,
                columns=readmodel.column_names(spec),
                records=records,
            )

    async def park(self, connection: Connection, letters: list[Parked]) -> None:
        """Store parked events; one that is parked already gets its new error."""
        await connection.executemany(
            f"""
            insert into {self._schema}.projection_parked
              (projection, version, build, position, stream, event_id, type, reason, error)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
            on conflict (projection, version, build, position)
            do update set reason = excluded.reason, error = excluded.error
            """,
            [
                (
                    *self._identity,
                    letter.event.position,
                    letter.event.envelope.stream,
                    letter.event.envelope.event_id,
                    letter.event.type,
                    letter.reason,
                    letter.error,
                )
                for letter in letters
            ],
        )

    async def _lock(self, connection: Connection, place: Place | None, synchronous: str) -> Position:
        row = await connection.fetchrow(
            f"""
            select position, epoch, set_config('synchronous_commit', $4, true)
            from {self._schema}.projection_checkpoint
            where (projection, version, build) = ($1, $2, $3) for update
            """,
            *self._identity,
            synchronous,
        )
        now = None if row is None else (row["position"], row["epoch"])
        if now is None or (place is not None and now != (place.position, place.epoch)):
            raise PlaceMovedError(f"checkpoint of {self._name}{self._build} is at {now}, not at {place}")
        return Position(now[0])

    async def _create_table(self, connection: Connection, spec: TableSpec[Any]) -> None:
        table = readmodel.table(spec, self._version, self._schema, self._build)
        if self._build is Build.LIVE:
            has_key = not spec.key_index
            await connection.execute((readmodel.table_ddl if has_key else readmodel.bare_table_ddl)(table))
            for index in readmodel.indexes(spec, self._version, self._schema)[has_key:]:
                # "if not exists" locks the table before it looks.
                if not await self._is_there(connection, index.name):
                    await connection.execute(index.ddl)
            if not await self._is_there(connection, spec.name):
                await point_view(connection, spec, self._version, self._schema)
            return
        ddl = readmodel.bare_table_ddl(table)
        if self._build is Build.CHECK:
            ddl = ddl.replace("CREATE TABLE", "CREATE UNLOGGED TABLE", 1)
        await connection.execute(ddl)

    async def _is_there(self, connection: Connection, name: str) -> bool:
        found = await connection.fetchval("select to_regclass($1)", f'"{self._schema}"."{name}"')
        return found is not None

    def _newest_of_keys(self, spec: TableSpec[Any]) -> str:
        table = f'"{self._schema}"."{readmodel.table_name(spec, self._version, self._build)}"'
        arrays = ", ".join(
            f"${i}::{readmodel.array_type(spec, field)}" for i, field in enumerate(spec.key, start=1)
        )
        names = ", ".join(f'"{field}"' for field in spec.key)
        same = " and ".join(f't."{field}" = k."{field}"' for field in spec.key)
        last = f"${len(spec.key) + 1}::bigint"
        return (
            f"select r.* from unnest({arrays}) k({names}) cross join lateral "
            f"(select * from {table} t where {same} and ({last} is null or t.position <= {last}) "
            "order by t.position desc limit 1) r"
        )


async def _make(left: Iterator[Index], connection: Connection) -> None:
    for index in left:
        await connection.execute(index.ddl)


async def _make_beside(left: Iterator[Index], pool: asyncpg.Pool) -> None:
    """Make indexes on a connection of its own, which keeps what it made should the other fail."""
    for index in left:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(f"select {_NOT_WAITING}, {_ALONE}; {index.ddl}")
