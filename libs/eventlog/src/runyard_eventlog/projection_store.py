"""What a projector keeps in its service's schema: tables, checkpoint, parked events."""

# ruff: noqa: S608 - only names from the code are put into statements

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runyard_contracts.ids import Position
from runyard_core.projection import KeyValue, Projection, RowKey, TableSpec
from runyard_eventlog import readmodel
from runyard_eventlog.connections import Connection
from runyard_eventlog.folding import Folded


class PlaceMovedError(Exception):
    """The stored checkpoint is not where this projector left it: another process works on it too."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a projection stands."""

    position: Position
    parked_streams: frozenset[str]
    """Streams with an event that could not be applied; their later events wait behind it."""


class ProjectionStore:
    """The statements of one projection version in one schema."""

    def __init__(self, projection: Projection[Any], schema: str) -> None:
        self._name = projection.name
        self._version = projection.version
        self._schema = schema
        self._specs: dict[str, TableSpec[Any]] = {spec.name: spec for spec in projection.tables}

    async def create(self, connection: Connection) -> None:
        """Make what is missing. Safe beside other processes that do the same."""
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(hashtext('runyard projections'))")
            await connection.execute(
                f"""
                create table if not exists {self._schema}.projection_checkpoint (
                  projection text, version bigint, position bigint not null,
                  moved_at timestamptz not null default now(), primary key (projection, version));
                create table if not exists {self._schema}.projection_parked (
                  projection text, version bigint, position bigint, stream text not null,
                  event_id text not null, type text not null, reason text not null, error text not null,
                  parked_at timestamptz not null default now(), primary key (projection, version, position));
                """
            )
            for spec in self._specs.values():
                table = readmodel.table(spec, self._version, self._schema)
                await connection.execute(readmodel.table_ddl(table))
                if (
                    await connection.fetchval("select to_regclass($1)", f'"{self._schema}"."{spec.name}"')
                    is None
                ):
                    await connection.execute(readmodel.view_ddl(spec, self._version, self._schema))
            await connection.execute(
                f"insert into {self._schema}.projection_checkpoint values ($1, $2, 0) on conflict do nothing",
                self._name,
                self._version,
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
                    await connection.execute(readmodel.view_ddl(spec, self._version, self._schema))

    async def place(self, connection: Connection) -> Place:
        """Read where the projection stands."""
        position = await connection.fetchval(
            f"""
            select position from {self._schema}.projection_checkpoint
            where (projection, version) = ($1, $2)
            """,
            self._name,
            self._version,
        )
        streams = await connection.fetch(
            f"""
            select distinct stream from {self._schema}.projection_parked
            where (projection, version, reason) = ($1, $2, 'APPLY_FAILED')
            """,
            self._name,
            self._version,
        )
        return Place(Position(position), frozenset(row["stream"] for row in streams))

    async def parked_at(self, connection: Connection) -> list[datetime]:
        """Read when each parked event was parked."""
        rows = await connection.fetch(
            f"select parked_at from {self._schema}.projection_parked where (projection, version) = ($1, $2)",
            self._name,
            self._version,
        )
        return [row["parked_at"] for row in rows]

    async def lock(self, connection: Connection, place: Place) -> None:
        """Hold the checkpoint until the transaction ends.

        Raises:
            PlaceMovedError: it is not where this projector left it.
        """
        position = await connection.fetchval(
            f"""
            select position from {self._schema}.projection_checkpoint
            where (projection, version) = ($1, $2) for update
            """,
            self._name,
            self._version,
        )
        if position != place.position:
            raise PlaceMovedError(f"checkpoint of {self._name} is at {position}, not {place.position}")

    async def fetch(
        self, connection: Connection, wanted: Mapping[str, set[tuple[KeyValue, ...]]]
    ) -> dict[RowKey, object | None]:
        """Read the current rows of keys, one query a table."""
        found: dict[RowKey, object | None] = {}
        for name, keys in wanted.items():
            spec = self._specs[name]
            # Sorted, so that the lookups walk the index in its order.
            columns = [list(column) for column in zip(*sorted(keys, key=repr), strict=True)]
            for row in await connection.fetch(self._newest_of_keys(spec), *columns):
                values = dict(row)
                found[RowKey(name, tuple(values[field] for field in spec.key))] = readmodel.row_from(
                    spec, values
                )
        return found

    async def write(self, connection: Connection, folded: Folded, position: Position) -> None:
        """Store new rows and parked events, and move the checkpoint."""
        for name, keys in folded.rows.items():
            table = readmodel.table(self._specs[name], self._version, self._schema)
            columns = [column.name for column in table.columns]
            await connection.copy_records_to_table(
                table.name,
                schema_name=self._schema,
                columns=columns,
                records=[
                    readmodel.row_values(row, columns) for rows in keys.values() for row in rows.values()
                ],
            )
        if folded.parked:
            await connection.executemany(
                f"""
                insert into {self._schema}.projection_parked
                  (projection, version, position, stream, event_id, type, reason, error)
                values ($1, $2, $3, $4, $5, $6, $7, $8)
                """,
                [
                    (
                        self._name,
                        self._version,
                        letter.event.position,
                        letter.event.envelope.stream,
                        letter.event.envelope.event_id,
                        letter.event.type,
                        letter.reason,
                        letter.error,
                    )
                    for letter in folded.parked
                ],
            )
        await connection.execute(
            f"""
            update {self._schema}.projection_checkpoint set position = $3, moved_at = now()
            where (projection, version) = ($1, $2)
            """,
            self._name,
            self._version,
            position,
        )

    def _newest_of_keys(self, spec: TableSpec[Any]) -> str:
        table = f'"{self._schema}"."{readmodel.table_name(spec, self._version)}"'
        arrays = ", ".join(
            f"${i}::{readmodel.array_type(spec, field)}" for i, field in enumerate(spec.key, start=1)
        )
        names = ", ".join(f'"{field}"' for field in spec.key)
        same = " and ".join(f't."{field}" = k."{field}"' for field in spec.key)
        return (
            f"select r.* from unnest({arrays}) k({names}) cross join lateral "
            f"(select * from {table} t where {same} order by t.position desc limit 1) r"
        )
