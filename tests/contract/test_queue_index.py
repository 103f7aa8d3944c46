"""The queue as the index of a real database tells it: what folding every event of the same log gives."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import DiffStatesRequest, SubjectKind
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import RunSpec
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, StreamName, stream_name, uuid7
from runyard_core.clock import SystemClock
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_replay.reading.comparing import diff_states
from runyard_replay.reading.indexed_queue import IndexedQueue
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

PROJECTS = ("blue", "red")


@pytest.fixture
async def yard(database: Database, tmp_path: Path) -> AsyncIterator[ArchiveYard]:
    async with opened(database, tmp_path) as made:
        yield made


async def fill(database: Database, count: int, draw: random.Random) -> None:
    """Append events of runs, each as it may follow the one before."""
    states: dict[StreamName, str] = {}
    versions: dict[StreamName, int] = {}
    context = Context(parse_actor("user:alice"), correlation_id=uuid7(), source="/test")
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:
        for number in range(count):
            going = [stream for stream, state in states.items() if state]
            events: list[tuple[StreamName, Message]] = []
            if not going or draw.random() < 0.4:
                run_id = uuid7()
                stream = stream_name("run", run_id)
                spec = RunSpec(step="train", priority=draw.randint(-1, 2))
                project = draw.choice(PROJECTS)
                numbered = ev.ProjectRunNumbered(project=project, run_id=run_id, number=number)
                events.append((stream_name("project", project), numbered))
                message: Message = ev.RunQueued(run_id=run_id, project=project, number=number, spec=spec)
                states[stream] = "queued"
            else:
                stream = draw.choice(going)
                message = draw.choice(NEXT[states[stream]])
                states[stream] = AFTER.get(type(message), "")
            events.append((stream, message))
            appends = []
            for stream, message in events:
                event = wrap(message, stream, context, SystemClock().now())
                appends.append(StreamAppend(stream, versions.get(stream, 0), [event]))
                versions[stream] = appends[-1].expected_version + 1
            await log.append(AppendCommand(CommandId(uuid7()), appends))


async def test_the_index_tells_the_queue_that_the_events_give(yard: ArchiveYard) -> None:
    draw = random.Random(11)
    await fill(yard.database, 90, draw)
    log = yard.whole
    assert await log.stream_index() is not None
    head = (await log.head()).domain_position
    assert head > 90
    indexed, folded = Queues(log, spacing_events=0, kept_runs_max=0), Queues(yard.hot)
    for position in (1, 2, *draw.sample(range(3, head), 12), head):
        moment = Moment(position, Timestamp(), Timestamp(seconds=2_000_000_000))
        for project in ("", *PROJECTS):
            queue = await folded.shown(moment, project)
            assert await IndexedQueue(log).shown(moment, project, 0, None) == queue
            assert (await indexed.shown(moment, project, skipped=1, limit=3)).waiting == queue.waiting[1:4]
    span = DiffStatesRequest(begin=AsOf(position=head - 10), end=AsOf(position=head))
    span.subject.kind = SubjectKind.SUBJECT_KIND_QUEUE
    differs = await diff_states(log, span, SystemClock(), indexed)
    assert differs == await diff_states(yard.hot, span, SystemClock())
    assert differs.changes
    await yard.seal()
    await yard.detach()
    assert await log.stream_index() is None
    assert await indexed.shown(moment, project) == queue
    assert moment.position > PARTITION
