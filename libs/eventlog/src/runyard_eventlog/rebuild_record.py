"""What is remembered of a rebuild until it is told to the log, so that a killed one goes on where it was."""

# ruff: noqa: S608 - only names from the code are put into statements

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runyard.projection.v1.events_pb2 import ProjectionRebuilt
from runyard_core.errors import NotFound, Rejected
from runyard_core.projection import Projection
from runyard_eventlog import bookkeeping
from runyard_eventlog.builds import Builds
from runyard_eventlog.connections import Connection
from runyard_eventlog.readmodel import Build

BUILDING, DIFFERS, SWAPPED = "building", "differs", "swapped"


@dataclass(frozen=True, slots=True)
class RebuildRecord:
    """One rebuild of one projection, from its request to its event."""

    rebuild_id: str
    version: int
    actor: str
    """Who asked: "user:alice"."""
    traceparent: str
    accepts_differences: bool
    state: str
    """building; differs: it waits for an acceptance; swapped: its event is still to be told."""
    event: ProjectionRebuilt | None
    """Since the swap."""


class RebuildRecords:
    """The rebuild of one projection in one schema: there is at most one."""

    def __init__(self, projection: Projection[Any], schema: str) -> None:
        self._projection = projection
        self._schema = schema
        self._builds = Builds(projection, schema)

    async def begin(
        self, connection: Connection, record: RebuildRecord, *, from_replaced: bool = False
    ) -> RebuildRecord:
        """Note that a rebuild is wanted; one that is under way is joined and takes the new acceptance over.

        Args:
            connection: of the role that owns the schema.
            record: what is wanted.
            from_replaced: go on with the tables that the last rebuild replaced instead of with none.

        Raises:
            Rejected: the tables that an earlier rebuild replaced are still there (OLD_BUILD_KEPT), or are
                wanted back and are not (NO_OLD_BUILD).
        """
        async with connection.transaction():
            await bookkeeping.prepare(connection, self._schema)
            present = await self.find(connection)
            if present is not None and (present.version == record.version or present.state == SWAPPED):
                await connection.execute(
                    f"""
                    update {self._schema}.projection_rebuild set state = $2,
                      accepts_differences = accepts_differences or $3
                    where projection = $1 and state <> '{SWAPPED}'
                    """,
                    self._projection.name,
                    BUILDING,
                    record.accepts_differences,
                )
                return await self.get(connection)
            await self._make_room(connection, record.version, from_replaced=from_replaced)
            await connection.execute(
                f"""
                insert into {self._schema}.projection_rebuild
                  (projection, version, rebuild_id, actor, traceparent, accepts_differences, state)
                values ($1, $2, $3, $4, $5, $6, $7)
                """,
                self._projection.name,
                record.version,
                record.rebuild_id,
                record.actor,
                record.traceparent,
                record.accepts_differences,
                BUILDING,
            )
        return record

    async def find(self, connection: Connection) -> RebuildRecord | None:
        """Give the rebuild that is not over; None when there is none."""
        table = f"{self._schema}.projection_rebuild"
        if await connection.fetchval("select to_regclass($1)", table) is None:
            return None
        row = await connection.fetchrow(f"select * from {table} where projection = $1", self._projection.name)
        if row is None:
            return None
        return RebuildRecord(
            str(row["rebuild_id"]),
            row["version"],
            row["actor"],
            row["traceparent"],
            row["accepts_differences"],
            row["state"],
            None if row["event"] is None else ProjectionRebuilt.FromString(row["event"]),
        )

    async def get(self, connection: Connection) -> RebuildRecord:
        """Give the rebuild that is not over.

        Raises:
            NotFound: there is none (NO_REBUILD).
        """
        record = await self.find(connection)
        if record is None:
            raise NotFound(f"no rebuild of {self._projection.name} is under way", code="NO_REBUILD")
        return record

    async def differs(self, connection: Connection) -> None:
        """Note that it differs and waits for an acceptance."""
        await self._set(connection, "state = $2", DIFFERS)

    async def swapped(self, connection: Connection, event: ProjectionRebuilt) -> None:
        """Note, within the swap's transaction, what is to be told to the log."""
        await self._set(
            connection, f"state = '{SWAPPED}', event = $2", event.SerializeToString(deterministic=True)
        )

    async def end(self, connection: Connection) -> None:
        """Forget it: its event is in the log, or it was given up."""
        await connection.execute(
            f"delete from {self._schema}.projection_rebuild where projection = $1", self._projection.name
        )

    async def _set(self, connection: Connection, what: str, value: object) -> None:
        await connection.execute(
            f"update {self._schema}.projection_rebuild set {what} where projection = $1",
            self._projection.name,
            value,
        )

    async def _make_room(self, connection: Connection, version: int, *, from_replaced: bool) -> None:
        """Drop what a rebuild of other code left unfinished; refuse while replaced tables are there."""
        kept = await self._builds.kept(connection)
        has_old = any(each.build is Build.OLD and each.version == version for each in kept)
        if has_old and not from_replaced:
            raise Rejected(
                f"the tables that the last rebuild of {self._projection.name} replaced are still there: "
                "drop them first",
                code="OLD_BUILD_KEPT",
            )
        if from_replaced and not has_old:
            raise Rejected(
                f"nothing is kept that a rebuild of {self._projection.name}, version {version}, replaced",
                code="NO_OLD_BUILD",
            )
        for each in kept:
            if each.build is Build.NEW:
                await self._builds.drop(connection, each)
        await self.end(connection)
        if from_replaced:
            await self._builds.take_back(connection)
