from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg

from runyard.artifact.v1.events_pb2 import ArtifactUploadBegun, ArtifactWritten
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard_artifact.projections.catalogue import CatalogueProjection
from runyard_artifact.queries import SCHEMA
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import CommandId, Position, stream_name, uuid7
from runyard_eventlog.port import AppendCommand, EventLog, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_testkit import Database

from .yard import sha256_of

ALICE = Context(
    actor=Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"), correlation_id=uuid7(), source="/artifact"
)
TABLES = ("artifact_v1", "artifact_origin_v1", "run_artifact_v1")


async def test_the_catalogue_is_rebuilt_from_the_log_row_for_row(database: Database) -> None:
    async with asyncpg.create_pool(database.url("artifact"), min_size=1, max_size=4) as pool:
        log = PostgresEventLog(pool)
        for number in range(40):
            head = await append_file(log, number)
        async with projected(pool, log, batch_max=7, to=head):
            live = await all_rows(pool)
        assert [len(rows) for rows in live] == [40, 40, 20]
        async with pool.acquire() as connection:
            for table in TABLES:
                await connection.execute(f"drop table {SCHEMA}.{table} cascade")
            await connection.execute(f"truncate {SCHEMA}.projection_checkpoint, {SCHEMA}.projection_parked")
        async with projected(pool, log, batch_max=1_000, to=head):
            assert await all_rows(pool) == live
        await log.close()


async def append_file(log: EventLog, number: int) -> Position:
    sha256 = sha256_of(bytes([number // 2]))
    stream = stream_name("artifact", sha256)
    origin = Origin(path=f"{number}.pt", run_id=f"run-{number}" if number % 2 else "", attempt=number % 2)
    begun = ArtifactUploadBegun(sha256=sha256, size_bytes=1, origin=origin)
    written = ArtifactWritten(sha256=sha256, size_bytes=1, origin=origin, object_key="k")
    now = datetime(2026, 1, 1, 12, number, tzinfo=UTC)
    appended = await log.append(
        AppendCommand(
            CommandId(uuid7()),
            [
                StreamAppend(
                    stream, 2 * (number % 2), [wrap(event, stream, ALICE, now) for event in (begun, written)]
                )
            ],
        )
    )
    return appended.position


@asynccontextmanager
async def projected(
    pool: asyncpg.Pool, log: EventLog, *, batch_max: int, to: Position
) -> AsyncIterator[None]:
    projector = Projector(pool, log, CatalogueProjection(), schema=SCHEMA, batch_max=batch_max)
    running = asyncio.create_task(projector.run())
    try:
        await projector.wait_for(to, timeout_seconds=10)
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def all_rows(pool: asyncpg.Pool) -> list[list[asyncpg.Record]]:
    async with pool.acquire() as connection:
        return [
            await connection.fetch(
                f"select t.*, t::text as text from {SCHEMA}.{table} t order by t.position, t::text"
            )
            for table in TABLES
        ]
