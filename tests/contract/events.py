"""Builders for the tests of the log: small commands with real event messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard.metric.v1.batches_pb2 import LogChunkRecorded
from runyard.run.v1.events_pb2 import RunQueued, RunStatusDetailSet
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, EventId, StreamName, stream_name, uuid7
from runyard_core.errors import Conflict
from runyard_eventlog.port import AppendCommand, Appended, EventLog, StreamAppend

DOMAIN = Lane.LANE_DOMAIN
TELEMETRY = Lane.LANE_TELEMETRY
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def run_stream() -> StreamName:
    """Name a run that nobody has used."""
    return stream_name("run", uuid7())


def context(actor: str = "user:alice", correlation_id: str = "", causation_id: str = "") -> Context:
    return Context(
        actor=parse_actor(actor),
        correlation_id=correlation_id or uuid7(),
        source="/scheduler",
        causation_id=causation_id,
    )


def queued(stream: StreamName, given: Context | None = None, title: str = "digits") -> Envelope:
    message = RunQueued(run_id=stream.partition("-")[2], project="p", number=1, title=title)
    return wrap(message, stream, given or context(), NOON)


def detail(stream: StreamName, text: str, given: Context | None = None) -> Envelope:
    message = RunStatusDetailSet(run_id=stream.partition("-")[2], attempt=1, status_detail=text)
    return wrap(message, stream, given or context(), NOON)


def chunk(stream: StreamName, line: str, event_id: str | None = None) -> Envelope:
    message = LogChunkRecorded(first_line_number=1, lines=[line])
    return wrap(message, stream, context("agent:node-1"), NOON, event_id=EventId(event_id or uuid7()))


def command(*appends: StreamAppend, command_id: str | None = None, digest: bytes = b"") -> AppendCommand:
    return AppendCommand(CommandId(command_id or uuid7()), appends, digest)


def details(stream: StreamName, expected: int, *texts: str) -> AppendCommand:
    return command(StreamAppend(stream, expected, [detail(stream, text) for text in texts]))


async def fill(log: EventLog, count: int, streams: Sequence[StreamName] = ()) -> list[Appended]:
    """Append single events, round robin over the streams, or each to a stream of its own."""
    answers = []
    versions = dict.fromkeys(streams, 0)
    for number in range(count):
        stream = streams[number % len(streams)] if streams else run_stream()
        answers.append(await log.append(details(stream, versions.get(stream, 0), f"n{number}")))
        versions[stream] = versions.get(stream, 0) + 1
    return answers


async def append_at_end(log: EventLog, stream: StreamName, text: str) -> Appended:
    """Append one event wherever the stream ends, as often as others are faster."""
    while True:
        expected = len(await log.read_stream(stream))
        try:
            return await log.append(details(stream, expected, text))
        except Conflict:
            continue


async def texts(log: EventLog, **options: object) -> list[str]:
    page = await log.read(DOMAIN, **options)  # type: ignore[arg-type]  # passes them on as they are
    return [event.message.status_detail for event in page.events]  # type: ignore[attr-defined]  # all are details
