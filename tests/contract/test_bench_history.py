"""The long history that the benchmarks copy into the log is one that appends could have written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest

from runyard.artifact.v1.events_pb2 import ArtifactUploadBegun, ArtifactWritten
from runyard.run.v1.events_pb2 import RunFinished, RunLeaseGranted, RunQueued
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.envelope import Context, actor_name, parse_actor, unwrap, wrap
from runyard_contracts.ids import CommandId, EventId, Position, stream_name, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_core.clock import SystemClock
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import FolderStore
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.sealing import Sealer
from runyard_eventlog.segment_seals import SealingSettings
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_event import StoredEvent
from runyard_eventlog.stored_log import PostgresStoredLog
from runyard_eventlog.verification import verify
from runyard_replay.reading.states import run_as_of
from runyard_testkit import Database
from tests.bench.replay_history import History
from tests.bench.replay_lives import EVENTS_A_RUN, EVENTS_TO_QUEUE, event
from tests.contract.events import DOMAIN
from tests.replay.runbooks import HISTORIES
from tests.replay.test_histories import events_of

EVENTS = 1_205
WAITING = 7
ALL = EVENTS + WAITING * EVENTS_TO_QUEUE
INDEXES = "select indexdef from pg_indexes where schemaname = 'log' order by indexdef"


def test_a_run_of_the_benchmarks_writes_the_events_that_a_recorded_run_wrote() -> None:
    recorded = Counter[str]()
    run_ids = set()
    for envelope in events_of(HISTORIES / "corrupt-dataset", DOMAIN):
        message = unwrap(envelope)
        run_id = getattr(message, "run_id", "")
        if isinstance(message, ArtifactUploadBegun | ArtifactWritten):
            run_id = message.origin.run_id
        if run_id:
            run_ids.add(run_id)
            recorded[envelope.type] += 1
    written = Counter(event_type_of(event(0, index)[1]).name for index in range(EVENTS_A_RUN))
    assert recorded == Counter({name: count * len(run_ids) for name, count in written.items()})


@pytest.mark.engines
async def test_a_copied_history_is_one_that_appends_write(database: Database, tmp_path: Path) -> None:
    async with database.connected() as admin:
        indexes = await admin.fetch(INDEXES)
        history = History(database.admin_url)
        await history.grow_to(1_000)
        await history.grow_to(EVENTS)
        await history.queue(WAITING)
        assert await admin.fetch(INDEXES) == indexes
    async with (
        asyncpg.create_pool(database.url("lineage"), min_size=1, max_size=6) as pool,
        PostgresEventLog(pool) as log,
        await PostgresEventLog.connect(database.url("scheduler")) as writing,
    ):
        stored = PostgresStoredLog(pool)
        rows = await stored.read(DOMAIN, 1, ALL)
        events = (await log.read(DOMAIN, limit=10_000)).events
        _check(rows, events, history)
        found = await log.find(EventId(events[500].envelope.event_id))
        assert found is not None
        assert found.position == 501
        first = await run_as_of(log, history.run_ids[0], EVENTS)
        assert (first.state, len(first.attempts)) == (RunState.RUN_STATE_FINISHED, 1)
        assert any(isinstance(event.message, RunFinished) for event in events)

        last = history.run_ids[-1]
        stream = stream_name("run", last)
        context = Context(parse_actor("service:scheduler"), correlation_id=uuid7(), source="/scheduler")
        granted = wrap(RunLeaseGranted(run_id=last, attempt=1), stream, context, SystemClock().now())
        appended = await writing.append(
            AppendCommand(CommandId(uuid7()), [StreamAppend(stream, 1, [granted])])
        )
        assert appended.position == Position(ALL + 1)

        key, store = SigningKey.load_or_create(tmp_path / "key"), FolderStore(tmp_path / "archive")
        await Sealer(log, stored, store, key, settings=SealingSettings(events_max=400)).seal_due(DOMAIN)
        report = await verify(Archive(store), [key.public], log=log, stored=stored, lanes=[DOMAIN])
        assert report.findings == []
        assert report.event_count > EVENTS


def _check(rows: list[StoredEvent], events: Sequence[RecordedEvent], history: History) -> None:
    """See that columns, envelopes and messages say the same, and that versions have no gaps."""
    assert [event.position for event in events] == list(range(1, ALL + 1))
    versions: dict[str, int] = {}
    for row, found in zip(rows, events, strict=True):
        envelope = found.envelope
        said = (str(row.event_id), row.stream, row.version, row.type, row.actor, row.correlation_id)
        assert said == (
            *(envelope.event_id, envelope.stream, envelope.stream_version, envelope.type),
            *(actor_name(envelope.actor), envelope.correlation_id),
        )
        assert envelope.stream_version == versions.get(envelope.stream, 0) + 1
        versions[envelope.stream] = envelope.stream_version
        assert envelope.occurred_at == envelope.recorded_at
        run_id = getattr(found.message, "run_id", "")
        assert not envelope.stream.startswith("run-") or envelope.stream == stream_name("run", run_id)
    assert [event.message.number for event in events if isinstance(event.message, RunQueued)] == [
        (1 << 14) + number for number in range(1, len(history.run_ids) + 1)
    ]
    assert len({event.envelope.event_id for event in events}) == len(events)
