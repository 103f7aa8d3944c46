"""The queue as the index of a real database tells it: what folding every event of the same log gives."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import RunSpec
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, StreamName, stream_name, uuid7
from runyard_core.clock import SystemClock
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_replay.reading.moments import Moment
from runyard_replay.reading.queues import Queues
from runyard_testkit import Database
from tests.contract.archive_yard import PARTITION, ArchiveYard, opened

pytestmark = pytest.mark.engines

NEXT: dict[str, list[Message]] = {
    "queued": [ev.RunLeaseGranted(attempt=1), ev.RunStopRequested(), ev.RunFinished()],
    "placed": [ev.RunStarted(attempt=1), ev.RunAttemptExited(attempt=1)],
    "left": [ev.RunFinished(), ev.RunRequeued(next_attempt=2)],
}
AFTER = {
    ev.RunLeaseGranted: "placed",
    ev.RunStarted: "placed",
    ev.RunStopRequested: "left",
    ev.RunAttemptExited: "left",
    ev.RunRequeued: "queued",
}


@pytest.fixture
async def yard(database: Database, tmp_path: Path) -> AsyncIterator[ArchiveYard]:
    async with opened(database, tmp_path) as made:
        yield made


async def fill(database: Database, count: int, draw: random.Random) -> None:
    """Append events of runs, each as it may follow the one before."""
    states: dict[StreamName, str] = {}
    versions: dict[StreamName, int] = {}
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:
        for number in range(count):
            going = [stream for stream, state in states.items() if state]
            if not going or draw.random() < 0.4:
                run_id = uuid7()
                stream = stream_name("run", run_id)
                spec = RunSpec(step="train", priority=draw.randint(-1, 2))
                message: Message = ev.RunQueued(run_id=run_id, project="red", number=number, spec=spec)
                states[stream] = "queued"
            else:
                stream = draw.choice(going)
                message = draw.choice(NEXT[states[stream]])
                states[stream] = AFTER.get(type(message), "")
            context = Context(parse_actor("user:alice"), correlation_id=uuid7(), source="/test")
            event = wrap(message, stream, context, SystemClock().now())
            append = StreamAppend(stream, versions.get(stream, 0), [event])
            await log.append(AppendCommand(CommandId(uuid7()), [append]))
            versions[stream] = append.expected_version + 1


async def test_the_index_tells_the_queue_that_the_events_give(yard: ArchiveYard) -> None:
    draw = random.Random(11)
    await fill(yard.database, 90, draw)
    log = yard.whole
    assert await log.stream_index() is not None
    indexed, folded = Queues(log, spacing_events=0, kept_runs_max=0), Queues(yard.hot)
    for position in (1, 2, *draw.sample(range(3, 90), 12), 90):
        moment = Moment(position, Timestamp(), Timestamp(seconds=2_000_000_000))
        queue = await folded.shown(moment)
        assert await indexed.shown(moment) == queue
        assert (await indexed.shown(moment, skipped=1, limit=3)).waiting == queue.waiting[1:4]
    await yard.seal()
    await yard.detach()
    assert await log.stream_index() is None
    assert await indexed.shown(moment) == queue
    assert moment.position > PARTITION
