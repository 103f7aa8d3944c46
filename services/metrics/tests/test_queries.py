"""What the tables of an attempt answer on a real database, and how much of them is looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
from google.protobuf.message import Message
from nats.aio.msg import Msg

from runyard.event.v1.envelope_pb2 import Lane
from runyard.metric.v1.batches_pb2 import AttemptRef, GpuSamplesRecorded, MetricPointsRecorded
from runyard_contracts.subjects import telemetry_subject
from runyard_eventlog.postgres import PostgresEventLog
from runyard_metrics.domain.spools import SpoolKey
from runyard_metrics.ingest import Ingest
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.queries import SCHEMA, MetricQueries
from runyard_testkit import Database
from runyard_testkit.read_model import ReadModel

from .sent_events import envelope_of, gpu_samples
from .test_ingest import Wire
from .yard import log_chunk, loss_points

pytestmark = pytest.mark.engines


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database.url("metrics"), min_size=1, max_size=2) as pool:
        yield pool


async def _taken_in(pool: asyncpg.Pool, batches: Sequence[tuple[SpoolKey, int, Message]]) -> None:
    """Put batches (spool, sequence) into the log one after the other, and into the tables."""
    async with PostgresEventLog(pool) as event_log:
        ingest, wire = Ingest(event_log, Wire()), Wire()
        for spool, sequence, batch in batches:
            data = envelope_of(batch, sequence, spool).SerializeToString()
            subject = telemetry_subject(spool.node_id, "gpu")
            await ingest.handle([Msg(_client=wire, subject=subject, reply="ack", data=data)])
        model = ReadModel(pool, event_log, TelemetryProjection(), SCHEMA, Lane.LANE_TELEMETRY)
        await model.projected(batch_max=1_000)


async def test_the_newest_figures_of_each_spool_are_found(pool: asyncpg.Pool) -> None:
    spools = [SpoolKey("node-1", "b"), SpoolKey("node-2", "a"), SpoolKey("node-1", "a")]
    batches = []
    for sequence in (1, 2):
        for spool in spools:
            batch = gpu_samples("r1", "r2")
            batch.node_id = spool.node_id
            batches.append((spool, sequence, batch))
    await _taken_in(pool, batches)
    queries = MetricQueries(pool)

    async def found(position: int, run_id: str = "r1") -> list[tuple[str, str, int, tuple[int, ...]]]:
        rows = await queries.gpu_usage(run_id, 1, position)
        return [(row.node_id, row.spool_id, row.position, row.sample_counts) for row in rows]

    assert await found(0) == []
    assert await found(2) == [("node-1", "b", 1, (2,)), ("node-2", "a", 2, (2,))]
    assert await found(5) == [("node-1", "a", 3, (2,)), ("node-1", "b", 4, (4,)), ("node-2", "a", 5, (4,))]
    assert await found(6, "r2") == [
        ("node-1", "a", 6, (4,)), ("node-1", "b", 4, (4,)), ("node-2", "a", 5, (4,))
    ]  # fmt: skip
    assert await found(6, "r3") == []


async def test_lines_that_came_while_nobody_read_them_are_given_in_bounded_parts(pool: asyncpg.Pool) -> None:
    # The second comes twice: its own batch adds nothing. The last is lines without a text.
    chunks = [log_chunk("r1", 1, 2, text="a" * 500), log_chunk("r1", 3, 3, text="b" * 500)]
    chunks += [
        chunks[1],
        log_chunk("r1", 9, 2, text="c" * 500),
        log_chunk("r1", 6, 3),
        log_chunk("r1", 11, 40),
    ]
    await _taken_in(pool, [(SpoolKey("node-1", "s1"), place, each) for place, each in enumerate(chunks, 1)])
    queries = MetricQueries(pool)
    parts, position = [], 0
    while position < len(chunks):
        part, position = await queries.added_log_chunks("r1", 1, position, len(chunks), bytes_max=2_000)
        parts.append(([each.first_line_number for each in part], position))
    assert parts == [([1, 3], 2), ([9, 6, 11], 6)]
    whole, position = await queries.added_log_chunks("r1", 1, 0, 5, bytes_max=1_000_000)
    assert ([each.first_line_number for each in whole], position) == ([1, 3, 9, 6], 5)


@pytest.mark.parametrize("batches_max", [1, 2, 3, 100])
async def test_samples_and_points_are_read_in_parts_and_all_of_them(
    pool: asyncpg.Pool, batches_max: int
) -> None:
    one, two = SpoolKey("node-1", "s1"), SpoolKey("node-2", "s1")
    batches: list[tuple[SpoolKey, int, Message]] = []
    for sequence in (1, 2, 3):
        for spool in (one, two):
            batch = gpu_samples("r1", rows=sequence)
            batch.node_id = spool.node_id
            batches.append((spool, sequence, batch))
    batches += [(one, 4, loss_points("r1", 7, [7.0, 8.0])), (one, 5, loss_points("r1", 1, [1.0, 2.0, 3.0]))]
    await _taken_in(pool, batches)
    queries = MetricQueries(pool)
    parts = [part async for part in queries.gpu_samples("r1", 1, 5, batches_max=batches_max)]
    found = [GpuSamplesRecorded.FromString(payload) for part in parts for payload in part]
    assert max(map(len, parts)) <= batches_max
    assert [(each.node_id, len(each.times_unix_milliseconds)) for each in found] == [
        ("node-1", 1), ("node-1", 2), ("node-1", 3), ("node-2", 1), ("node-2", 2)
    ]  # fmt: skip
    _, values = await queries.metric_points("r1", 1, "loss", 8, batches_max=batches_max)
    assert list(values) == [1.0, 2.0, 3.0, 7.0, 8.0]
    _, values = await queries.metric_points("r1", 1, "loss", 7, batches_max=batches_max)
    assert list(values) == [7.0, 8.0]


async def test_the_newest_values_of_many_metrics_are_read_in_parts_without_their_points(
    pool: asyncpg.Pool,
) -> None:
    names = [f"sample-{number}" for number in range(9)]
    points = MetricPointsRecorded(
        attempt=AttemptRef(run_id="r1", attempt=1),
        names=names,
        name_indices=range(9),
        times_unix_milliseconds=range(9),
        line_numbers=range(1, 10),
        values=range(9),
    )
    await _taken_in(pool, [(SpoolKey("node-1", "s1"), 1, points)])
    queries = MetricQueries(pool)
    assert await queries.metric_names("r1", 1, names_max=4) == names[:4]
    assert await queries.metric_names("r1", 1, names_max=100) == names
    assert len(await queries.changed_metric_names("r1", 1, 0, 1, names_max=4)) == 4
    parts = [part async for part in queries.latest_metrics("r1", 1, names, 1, names_max=4)]
    assert [[row.name for row in part] for part in parts] == [names[:4], names[4:8], names[8:]]
    assert [row.last_value for part in parts for row in part] == list(range(9))
    assert all(row.values == () for part in parts for row in part)
