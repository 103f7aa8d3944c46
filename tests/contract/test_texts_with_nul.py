"""Texts with a NUL, which no table can hold: the same rows with U+FFFD, live, rebuilt and requeued."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Lane
from runyard.node.v1.events_pb2 import NodeEnrolled, NodeGpusReleased, NodeGpusReserved
from runyard.run.v1.events_pb2 import (
    RunFinished,
    RunLeaseGranted,
    RunQueued,
    RunStatusDetailSet,
    RunStopRequested,
)
from runyard.run.v1.types_pb2 import RunSpec, TelemetryMark
from runyard_contracts.envelope import wrap
from runyard_contracts.ids import StreamName, stream_id, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Projection, Put, Rows
from runyard_cost.projections.leases import CostProjection
from runyard_eventlog.builds import Builds
from runyard_eventlog.dead_letters import DeadLetters
from runyard_eventlog.filling import fill
from runyard_eventlog.port import StreamAppend
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.readmodel import Build, table_name
from runyard_lineage.projections.edges import EdgesProjection
from runyard_metrics.projections.runs import RunsProjection
from runyard_scheduler.projections.scheduler import SchedulerProjection
from tests.contract.events import NOON, command, context, details, run_stream
from tests.contract.rebuild_yard import DONE, SCHEMA, RingingLog, live, rebuilder, rebuilt
from tests.contract.stories import POISON, STORY, WORD, Stories, StoryRow, rows_of

pytestmark = pytest.mark.engines

SAID = "select word, count from scheduler.word_v1 order by position"


class Lookers(Stories):
    """A word with a NUL makes no row of words: it is only looked at how often the word was said."""

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any]]:
        message = event.message
        assert isinstance(message, RunStatusDetailSet)
        said = rows.get(WORD, message.status_detail, 7)
        if "\0" not in message.status_detail:
            yield from Stories.apply(self, event, rows)
        else:
            count = said.count if said else -1
            yield Put(STORY, StoryRow(message.run_id, event.position, count, b"", None, ()))


class Words(Stories):
    """What each run said, in no key, and how many different words that were. Fails on a poisoned text."""

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any]]:
        message = event.message
        assert isinstance(message, RunStatusDetailSet)
        if message.status_detail == POISON:
            raise ValueError("poisoned")
        story = rows.get(STORY, message.run_id)
        words = (*(story.words if story else ()), message.status_detail)
        yield Put(STORY, StoryRow(message.run_id, event.position, len(set(words)), b"", None, words))


class Failing(Stories):
    """Fails on a text with a NUL."""

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any]]:
        message = event.message
        if isinstance(message, RunStatusDetailSet) and "\0" in message.status_detail:
            raise ValueError("a NUL")
        return Stories.apply(self, event, rows)


async def test_keys_that_are_read_back_make_the_same_rows_live_and_rebuilt(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    stream = run_stream()
    # In one batch, in the next one of the same projector, and in the first of a projector that begins there.
    head = (await story_log.append(details(stream, 0, "a", "b\0", "b\0"))).position
    async with live(pool, story_log) as projector:
        await projector.wait_for(head, 10)
        head = (await story_log.append(details(stream, 3, "b\0", "b\ufffd"))).position
        await projector.wait_for(head, 10)
    head = (await story_log.append(details(stream, 5, "b\0", "c"))).position
    async with live(pool, story_log) as projector:
        await projector.wait_for(head, 10)
        said = [tuple(row) for row in await pool.fetch(SAID)]
        assert said == [("a", 1), *(("b\ufffd", count) for count in (1, 2, 3, 4, 5)), ("c", 1)]
        before = await rows_of(pool, SCHEMA)  # type: ignore[arg-type]
        assert (await rebuilt(pool, story_log)).phase == DONE
        assert await rows_of(pool, SCHEMA) == before  # type: ignore[arg-type]


@pytest.mark.parametrize("projection", [Stories(), Lookers(), Words()], ids=lambda each: type(each).__name__)
async def test_it_makes_no_difference_which_events_are_written_together(
    pool: asyncpg.Pool, story_log: RingingLog, projection: Stories
) -> None:
    stream = run_stream()
    words = ["a", "b\ufffd", "c", "b\0", "d", "b\0", "b\ufffd", "c\0", "a\0", "c\0", "e", "c\ufffd"]
    for version, word in enumerate(words):
        head = (await story_log.append(details(stream, version, word))).position
        # Each one of a new process, which has its rows from the tables alone.
        async with live(pool, story_log, projection) as projector:
            await projector.wait_for(head, 10)
    one_by_one = await _rows(pool, projection, Build.LIVE)
    for batch_max in (1, 2, 5, 12):
        assert await _filled(pool, story_log, projection, head, batch_max) == one_by_one


@pytest.mark.parametrize(
    "projection",
    [SchedulerProjection(), RunsProjection(), CostProjection(), EdgesProjection()],
    ids=lambda each: type(each).__name__,
)
async def test_services_keep_what_scheduler_and_agents_said_before_such_texts_were_refused(
    pool: asyncpg.Pool, story_log: RingingLog, projection: Projection[RecordedEvent]
) -> None:
    for stream, message in _said():
        events = [wrap(message, stream, context(), NOON)]
        version = len(await story_log.read_stream(stream))
        head = (await story_log.append(command(StreamAppend(stream, version, events)))).position
        async with live(pool, story_log, projection) as projector:
            await projector.wait_for(head, 10)
            assert projector.lag.parked_count == 0
    one_by_one = await _rows(pool, projection, Build.LIVE)
    texts = [value for row in one_by_one for value in row if isinstance(value, str)]
    assert any("\ufffd" in text for text in texts)
    assert await _filled(pool, story_log, projection, head, 1_000) == one_by_one
    if isinstance(projection, CostProjection):
        held = await pool.fetchval(f"select count(*) from {SCHEMA}.lease where released_at_ms is null")
        assert held == 0


def _said() -> Iterable[tuple[StreamName, Message]]:
    """A run that is stopped, with a NUL wherever nothing refused one."""
    run, node = run_stream(), stream_name("node", "n")
    run_id = stream_id(run)
    spec = RunSpec(step="a\0")
    lease: dict[str, Any] = {"node_id": "n\0", "lease_id": "l\0", "run_id": run_id, "attempt": 1}
    yield node, NodeEnrolled(node_id="n")
    yield run, RunQueued(run_id=run_id, project="p\0", number=1, spec=spec, tags=["t\0"])
    yield node, NodeGpusReserved(**lease, gpu_uuids=["G\0"], gpu_models=["L\0"], project="p\0")
    yield run, RunLeaseGranted(**lease, gpu_uuids=["G\0"])
    yield run, RunStopRequested(run_id=run_id, reason="r\0")
    yield run, RunFinished(run_id=run_id, attempt=1, telemetry=TelemetryMark(spool_id="s\0"))
    yield node, NodeGpusReleased(**lease)


async def _filled(
    pool: asyncpg.Pool, log: RingingLog, projection: Projection[Any], head: int, batch_max: int
) -> list[tuple[object, ...]]:
    store = ProjectionStore(projection, SCHEMA, Build.CHECK)
    async with pool.acquire() as connection:
        await store.create(connection)
        place = await store.place(connection)
    batches = fill(
        pool,
        log,
        store,
        projection,
        lane=Lane.LANE_DOMAIN,
        place=place,
        to_position=head,
        batch_max=batch_max,
    )
    async with aclosing(batches) as filled:
        async for batch in filled:
            place = batch.place
    assert (place.position, place.parked_streams) == (head, frozenset())
    rows = await _rows(pool, projection, Build.CHECK)
    async with pool.acquire() as connection:
        builds = Builds(projection, SCHEMA)
        for kept in await builds.kept(connection):
            if kept.build is Build.CHECK:
                await builds.drop(connection, kept)
    return rows


async def _rows(pool: asyncpg.Pool, projection: Projection[Any], build: Build) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for spec in projection.tables:
        name = f"{SCHEMA}.{table_name(spec, projection.version, build)}"
        rows += map(tuple, await pool.fetch(f"select * from {name} t order by position, t::text"))
    return rows


async def test_a_requeued_event_makes_the_rows_that_a_rebuild_makes_of_it(
    pool: asyncpg.Pool, story_log: RingingLog
) -> None:
    stream = run_stream()
    await story_log.append(details(stream, 0, "a", "b\ufffd", "b\0", "b\0"))
    async with live(pool, story_log, Failing()) as projector:
        await projector.wait_for(4, 10)
    letters = DeadLetters(pool, story_log, Stories(), schema=SCHEMA, lane=Lane.LANE_DOMAIN)
    done = await letters.requeue()
    assert ([letter.position for letter in done.applied], done.remaining_count) == ([3, 4], 0)
    assert [tuple(row) for row in await pool.fetch(SAID)] == [
        ("a", 1),
        *(("b\ufffd", count) for count in (1, 2, 3)),
    ]
    work, told = rebuilder(pool, story_log)
    await work.verify()
    assert told.last.phase == DONE


@pytest.mark.parametrize("projection", [Stories(), Words()], ids=lambda each: type(each).__name__)
async def test_events_that_are_folded_once_more_for_a_nul_fail_once(
    pool: asyncpg.Pool, story_log: RingingLog, projection: Stories
) -> None:
    for _ in range(15):
        await story_log.append(details(run_stream(), 0, POISON))
    head = (await story_log.append(details(run_stream(), 0, "b\0"))).position
    async with live(pool, story_log, projection) as projector:
        await projector.wait_for(head, 10)
        assert projector.lag.parked_count == 15
        told = await rebuilt(pool, story_log, projection)
    assert (told.phase, told.parked_count) == (DONE, 15)
