from __future__ import annotations

import io
from datetime import UTC, datetime

import asyncpg
import pytest

from runyard.artifact.v1 import artifact_service_pb2 as pb
from runyard.artifact.v1.events_pb2 import ArtifactUploadBegun, ArtifactWritten
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard.event.v1.read_pb2 import ReadOptions
from runyard_artifact.domain.reference import object_key
from runyard_artifact.projections.catalogue import CatalogueProjection
from runyard_artifact.queries import SCHEMA
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_eventlog.port import AppendCommand, EventLog, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_replay.folding.files import ORIGINS_SHOWN_MAX
from runyard_testkit import Database
from runyard_testkit.read_model import ReadModel

from .yard import Yard, sha256_of

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


async def test_files_that_came_from_many_places_are_listed_in_pages_that_can_be_sent(yard: Yard) -> None:
    """Files that every run makes anew, for years: fifteen of them, with seventeen megabytes of names."""
    path = "x" * 1000
    sha256s = [sha256_of(bytes([number])) for number in range(15)]
    origins = [
        Origin(path=f"{path}-{number}", run_id=f"run-{number}", attempt=1)
        for number in range(ORIGINS_SHOWN_MAX + 100)
    ]
    async with await PostgresEventLog.connect(yard.database.url("artifact")) as log:
        for sha256 in sha256s:
            stream, now = stream_name("artifact", sha256), datetime(2026, 1, 1, tzinfo=UTC)
            written = (ArtifactWritten(sha256=sha256, size_bytes=1, origin=origin) for origin in origins)
            events = [wrap(event, stream, ALICE, now) for event in written]
            for start in range(0, len(events), 500):
                some = StreamAppend(stream, start, events[start : start + 500])
                position = (await log.append(AppendCommand(CommandId(uuid7()), [some]))).position

    request = pb.ListArtifactsRequest(page_size=1_000, read=ReadOptions(min_position=position))
    pages = [await yard.artifact.ListArtifacts(request)]
    while pages[-1].next_page_token:
        request.page_token = pages[-1].next_page_token
        pages.append(await yard.artifact.ListArtifacts(request))

    assert len(pages) == 2
    listed = [artifact for page in pages for artifact in page.artifacts]
    assert [artifact.sha256 for artifact in listed] == sha256s[::-1]
    newest = [origin.path for origin in origins[-ORIGINS_SHOWN_MAX:]]
    yard.bucket.client.put_object(
        f"{yard.bucket.name}-new", object_key(sha256s[0]), io.BytesIO(bytes([0])), length=1
    )
    again = await yard.commit(sha256s[0], 1, origins[0])
    shown = await yard.artifact.GetArtifact(pb.GetArtifactRequest(name=sha256s[0], read=request.read))
    for artifact in (*listed, again.artifact, shown.artifact):
        assert [each.origin.path for each in artifact.origins] == newest


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
