"""Replay equality in PostgreSQL for every projection: live, rebuilt, cut off, by two processes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC

import asyncpg
import pytest

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.comparison import compare
from runyard_eventlog.filling import fill
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projection_store import PlaceMovedError, ProjectionStore
from runyard_eventlog.readmodel import Build
from runyard_testkit import Database
from tests.replay.every_projection import EVERY, Subject
from tests.replay.test_replay_equality import rebuilt, recorded

pytestmark = pytest.mark.engines

HISTORY = "corrupt-dataset"
"""The one with the most different events."""
COLUMNS = (
    *("lane", "position", "version", "after_position", "recorded_at", "event_id", "causation_id", "stream"),
    *("type", "correlation_id", "actor", "payload"),
)


@pytest.mark.engines
async def test_a_recorded_history_gives_the_same_rows_in_postgres(database: Database) -> None:
    async with database.connected() as admin:
        for lane in (Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY):
            rows = [_row(event) for event in recorded(HISTORY, lane)]
            await admin.copy_records_to_table("event", schema_name="log", columns=COLUMNS, records=rows)
    for subject in EVERY:
        history = recorded(HISTORY, subject.lane)
        async with asyncpg.create_pool(database.url(subject.service), min_size=2, max_size=6) as pool:
            await _equal_in_postgres(subject, pool, history)


async def _equal_in_postgres(subject: Subject, pool: asyncpg.Pool, history: Sequence[RecordedEvent]) -> None:
    head = history[-1].position
    async with PostgresEventLog(pool) as log:
        await _filled(subject, pool, log, Build.LIVE, head, batch_max=1_000)
        # Cut off after each page, and gone on with by another process.
        while await _filled(subject, pool, log, Build.NEW, head, batch_max=7, batches_max=1) < head:
            pass
        await asyncio.gather(
            *(_filled(subject, pool, log, Build.CHECK, head, batch_max=3, returns=True) for _ in range(2))
        )
    async with pool.acquire() as connection:
        for build in (Build.NEW, Build.CHECK):
            comparison = await compare(connection, subject.projection, subject.service, build, head)
            assert comparison.is_equal, comparison.differences
    counted = {table.table: table.live_row_count for table in comparison.tables}
    in_memory = dict.fromkeys(counted, 0)
    for key, rows in rebuilt(subject, history).rows.items():
        in_memory[key.table] += len(rows)
    assert counted == in_memory


async def _filled(
    subject: Subject,
    pool: asyncpg.Pool,
    log: PostgresEventLog,
    build: Build,
    to_position: int,
    *,
    batch_max: int,
    batches_max: int = 1_000,
    returns: bool = False,
) -> int:
    """Fill a build, or a part of it; ``returns`` when another one was faster. Gives where it is."""
    store = ProjectionStore(subject.projection, subject.service, build)
    while True:
        async with pool.acquire() as connection:
            await store.create(connection)
            place = await store.place(connection)
        pages = fill(
            pool,
            log,
            store,
            subject.projection,
            lane=subject.lane,
            place=place,
            to_position=to_position,
            batch_max=batch_max,
        )
        try:
            async with aclosing(pages) as batches:
                async for batch in batches:
                    place = batch.place
                    batches_max -= 1
                    if not batches_max:
                        break
        except PlaceMovedError:
            if returns:
                continue
            raise
        return place.position


def _row(event: RecordedEvent) -> tuple[object, ...]:
    given = event.envelope
    stored = Envelope.FromString(given.SerializeToString())
    for field in ("position", "recorded_at", "after_position"):
        stored.ClearField(field)
    return (
        *(given.lane, event.position, given.stream_version, given.after_position),
        *(given.recorded_at.ToDatetime(tzinfo=UTC), given.event_id, given.causation_id or None),
        *(given.stream, given.type, given.correlation_id, actor_name(given.actor)),
        stored.SerializeToString(deterministic=True),
    )
