"""A read model in a real database: projected, written out, and deleted, as a test of a rebuild needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.projection import Projection
from runyard_eventlog import readmodel
from runyard_eventlog.port import EventLog
from runyard_eventlog.projector import Projector

_SECONDS_MAX = 20.0


class ReadModel:
    """The tables of one projection, in the schema of the service that owns them."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        log: EventLog,
        projection: Projection[Any],
        schema: str,
        lane: Lane.ValueType = Lane.LANE_DOMAIN,
    ) -> None:
        """Use a pool of the role that owns the schema."""
        self._pool = pool
        self._log = log
        self._projection = projection
        self._schema = schema
        self._lane = lane
        self._tables = {
            spec.name: readmodel.table_name(spec, projection.version) for spec in projection.tables
        }

    async def projected(self, *, batch_max: int) -> Mapping[str, list[str]]:
        """Project all that the log has; gives the rows of each table as PostgreSQL writes them out."""
        projector = Projector(
            self._pool,
            self._log,
            self._projection,
            schema=self._schema,
            lane=self._lane,
            batch_max=batch_max,
        )
        running = asyncio.ensure_future(projector.run())
        try:
            await projector.wait_for((await self._log.head()).of(self._lane), _SECONDS_MAX)
        finally:
            running.cancel()
            await asyncio.wait([running])
        return {name: await self._written_out(table) for name, table in self._tables.items()}

    async def delete(self) -> None:
        """Drop the tables, and forget how far they were."""
        for table in self._tables.values():
            await self._pool.execute(f"drop table {self._schema}.{table} cascade")
        await self._pool.execute(
            f"truncate {self._schema}.projection_checkpoint, {self._schema}.projection_parked"
        )

    async def _written_out(self, table: str) -> list[str]:
        statement = f"select t::text as line from {self._schema}.{table} t order by t::text"  # noqa: S608 - names
        return [row["line"] for row in await self._pool.fetch(statement)]
