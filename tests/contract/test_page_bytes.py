"""Pages of the Postgres log end where their bytes are full: whatever sizes come after one another."""

from __future__ import annotations

import itertools
import random
from contextlib import aclosing

import asyncpg
import pytest

from runyard.metric.v1.batches_pb2 import AttemptRef, LogChunkRecorded, LogStream
from runyard_contracts.envelope import wrap
from runyard_contracts.ids import Position, stream_name, uuid7
from runyard_eventlog import fitting, mirror, postgres
from runyard_eventlog.filling import fill
from runyard_eventlog.handler import load_appended
from runyard_eventlog.port import EVERYTHING, EventFilter, EventLog, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.readmodel import Build
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_testkit import Database
from tests.contract.events import DOMAIN, NOON, TELEMETRY, command, context, details, run_stream

pytestmark = pytest.mark.engines

PAGE_BYTES = 20_000


@pytest.fixture
def log_database(database: Database) -> Database:
    """The log on Postgres alone."""
    return database


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of few bytes, looked for in few positions first."""
    monkeypatch.setattr(fitting, "PAGE_BYTES_MAX", PAGE_BYTES)
    monkeypatch.setattr(postgres, "_WINDOW_FIRST", 3)


@pytest.mark.usefixtures("small_pages")
async def test_pages_take_all_that_fits_and_nothing_more(
    log: PostgresEventLog, admin: asyncpg.Connection
) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    streams = [run_stream(), stream_name("node", "n1")]
    for version in range(40):
        size = chosen.choice((1, 40, 3_000, 12_000))
        for stream in streams:
            await log.append(details(stream, version, "x" * size))
    stored = await admin.fetch("select position, octet_length(payload), stream from log.domain_event")
    sizes: dict[int, int] = {position: size for position, size, _ in stored}
    names: dict[int, str] = {position: stream for position, _, stream in stored}
    for wanted, descending, limit in itertools.product(
        (EVERYTHING, EventFilter(categories=["run"]), EventFilter(streams=[streams[1]])),
        (False, True),
        (1, 2, 7, 1_000),
    ):
        left = [
            position
            for position in sorted(sizes, reverse=descending)
            if wanted == EVERYTHING or names[position].startswith("node" if wanted.streams else "run")
        ]
        low, high = 0, 80
        while left:
            expected = [
                position
                for position, up_to_it in zip(
                    left, itertools.accumulate(sizes[position] for position in left), strict=True
                )
                if up_to_it <= PAGE_BYTES
            ][:limit]
            page = await log.read(
                DOMAIN,
                after_position=Position(low),
                to_position=Position(high),
                filter=wanted,
                limit=limit,
                descending=descending,
            )
            assert [event.position for event in page.events] == expected
            assert page.is_full or len(expected) == len(left)
            low, high = (low, page.scanned_to - 1) if descending else (page.scanned_to, high)
            left = left[len(expected) :]


@pytest.mark.usefixtures("small_pages")
async def test_all_events_of_a_large_command_are_found_again(log: EventLog) -> None:
    large = details(run_stream(), 0, *["x" * 9_000] * 7)
    appended = await log.append(large)
    events = await load_appended(log, DOMAIN, appended)
    assert tuple(event.position for event in events) == appended.positions


@pytest.mark.usefixtures("small_pages")
async def test_a_build_writes_large_events_a_page_at_a_time(
    metrics_log: EventLog, database: Database
) -> None:
    """So what it holds does not grow with the size of events."""
    stream = stream_name("telemetry", uuid7())
    batches = [
        LogChunkRecorded(
            attempt=AttemptRef(run_id=uuid7(), attempt=1),
            first_line_number=number,
            lines=["x" * 9_000],
            streams=[LogStream.LOG_STREAM_STDOUT],
            times_unix_milliseconds=[1_767_225_600_000],
        )
        for number in range(1, 10)
    ]
    envelopes = [wrap(batch, stream, context("agent:n1"), NOON) for batch in batches]
    end = (await metrics_log.append(command(StreamAppend(stream, 0, envelopes)))).position
    projection = TelemetryProjection()
    store = ProjectionStore(projection, "metrics", Build.NEW)
    async with asyncpg.create_pool(database.url("metrics"), min_size=2, max_size=5) as pool:
        async with pool.acquire() as connection:
            await store.create(connection)
            place = await store.place(connection)
        filled = fill(
            pool, metrics_log, store, projection, lane=TELEMETRY, place=place, to_position=end, batch_max=8
        )
        async with aclosing(filled) as made:
            counts = [batch.event_count async for batch in made]
        lines = await pool.fetchval(f"select count(*) from metrics.log_chunk_v{projection.version}_new")
    assert (counts, lines) == ([2, 2, 2, 2, 1], 9)


async def test_the_relay_reads_no_more_than_it_sends_at_once(
    log: EventLog, admin: asyncpg.Connection
) -> None:
    for _ in range(8):
        await log.append(details(run_stream(), 0, "x" * 1_000_000))
    head = await log.head()
    messages = await mirror.read_messages(admin, 0, mirror.BATCH_MAX, head.log_id)
    assert [message.position for message in messages] == [1, 2, 3, 4, 5]
