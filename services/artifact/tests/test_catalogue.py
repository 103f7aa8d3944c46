from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import pytest

from runyard.artifact.v1.events_pb2 import ArtifactUploadBegun, ArtifactWritten
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard_artifact.projections.catalogue import CatalogueProjection
from runyard_artifact.queries import SCHEMA
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_eventlog.port import AppendCommand, EventLog, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from runyard_testkit.read_model import ReadModel

from .yard import sha256_of

pytestmark = pytest.mark.engines

ALICE = Context(
    actor=Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"), correlation_id=uuid7(), source="/artifact"
)


async def test_the_catalogue_is_rebuilt_from_the_log_row_for_row(database: Database) -> None:
    async with asyncpg.create_pool(database.url("artifact"), min_size=1, max_size=4) as pool:
        log = PostgresEventLog(pool)
        for number in range(40):
            await append_file(log, number)
        model = ReadModel(pool, log, CatalogueProjection(), SCHEMA)
        live = await model.projected(batch_max=7)
        assert {name: len(rows) for name, rows in live.items()} == {
            "artifact": 40,
            "artifact_origin": 40,
            "run_artifact": 20,
        }
        await model.delete()
        assert await model.projected(batch_max=1_000) == live
        await log.close()


async def append_file(log: EventLog, number: int) -> None:
    sha256 = sha256_of(bytes([number // 2]))
    stream = stream_name("artifact", sha256)
    origin = Origin(path=f"{number}.pt", run_id=f"run-{number}" if number % 2 else "", attempt=number % 2)
    begun = ArtifactUploadBegun(sha256=sha256, size_bytes=1, origin=origin)
    written = ArtifactWritten(sha256=sha256, size_bytes=1, origin=origin, object_key="k")
    now = datetime(2026, 1, 1, 12, number, tzinfo=UTC)
    await log.append(
        AppendCommand(
            CommandId(uuid7()),
            [
                StreamAppend(
                    stream, 2 * (number % 2), [wrap(event, stream, ALICE, now) for event in (begun, written)]
                )
            ],
        )
    )
