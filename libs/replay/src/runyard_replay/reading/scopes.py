"""Which events belong to the timeline of a run, a node or a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import SubjectKind
from runyard.metric.v1.batches_pb2 import GpuSamplesRecorded, SamplesMissing
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.run.v1.events_pb2 import RunFinished, RunLeaseGranted, RunStaleReportReceived, RunStarted
from runyard.run.v1.types_pb2 import TelemetryMark
from runyard_contracts.ids import StreamName, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import InvalidInput
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.positions import telemetry_at
from runyard_replay.reading.merging import EventSource, known
from runyard_replay.reading.pages import read_lane, read_stream
from runyard_replay.reading.subjects import Thing
from runyard_replay.views import readable

_LATE_MILLISECONDS = 60_000
"""Samples this long after a lease do not belong to it, whatever the clocks say."""
_GPU_BATCHES = ("runyard.gpu.samples_recorded", "runyard.samples.missing")


@dataclass(frozen=True, slots=True)
class Span:
    """Where a timeline may look."""

    after: int
    """Domain position that it begins behind."""
    to: int
    """Domain position that it ends with."""
    telemetry_to: int
    """Telemetry position that it ends with."""


@dataclass(slots=True)
class Scope:
    """What belongs to a timeline."""

    domain: dict[int, RecordedEvent] = field(default_factory=dict)
    telemetry: list[EventSource] = field(default_factory=list)
    marks: dict[int, TelemetryMark] = field(default_factory=dict)
    """Position of run.finished -> up to where its spool had the attempt."""

    def add(self, event: RecordedEvent) -> None:
        """Add an event of the domain lane."""
        self.domain[event.position] = event

    def sources(self, span: Span, *, domain_only: bool) -> list[EventSource]:
        """Give everything as ordered sources."""
        events = [event for event in self.domain.values() if span.after < event.position <= span.to]
        return [known(events), *([] if domain_only else self.telemetry)]


async def scope_of(event_log: EventLog, thing: Thing, span: Span) -> Scope:
    """Gather the timeline of a thing.

    Raises:
        InvalidInput: it has no timeline of its own (NO_TIMELINE).
        Unavailable: the log did not answer in time.
    """
    scope = Scope()
    match thing.kind:
        case SubjectKind.SUBJECT_KIND_RUN:
            await _add_run(event_log, scope, thing.id, span)
        case SubjectKind.SUBJECT_KIND_NODE:
            await _add_node(event_log, scope, thing.id, span)
        case SubjectKind.SUBJECT_KIND_FILE:
            await _add_file(event_log, scope, thing.id, span)
        case _:
            raise InvalidInput("a run, a node or a file has a timeline", code="NO_TIMELINE")
    return scope


async def _add_run(event_log: EventLog, scope: Scope, run_id: str, span: Span) -> None:
    events = [event async for event in read_stream(event_log, stream_name("run", run_id), to=span.to)]
    if not events:
        return
    for event in events:
        scope.add(event)
    correlation_id = events[0].envelope.correlation_id
    wanted = EventFilter(correlation_id=correlation_id)
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=0, to=span.to, wanted=wanted):
        scope.add(event)
    await _add_outputs(event_log, scope, run_id, events, span)
    begin = max(span.after, events[0].position - 1)
    first = await telemetry_at(event_log, begin - 1, span.telemetry_to)
    scope.telemetry.append(
        read_lane(event_log, Lane.LANE_TELEMETRY, after=first, to=span.telemetry_to, wanted=wanted)
    )
    for lease in _leases(events, span.to):
        await _add_lease(event_log, scope, run_id, lease, span)


@dataclass(frozen=True, slots=True)
class _Held:
    node_id: str
    from_position: int
    to_position: int
    has_gpus: bool
    ended_unix_milliseconds: int
    """0 while it goes on."""


def _leases(events: list[RecordedEvent], end: int) -> list[_Held]:
    granted = [event for event in events if isinstance(readable(event), RunLeaseGranted)]
    following = [*(event.position for event in granted[1:]), 0]
    finished = next((event for event in events if isinstance(readable(event), RunFinished)), None)
    held = []
    # Without a lease, or its node, there is nobody who could tell more.
    for event, next_position in zip(granted, following, strict=False):
        message = event.message
        if not isinstance(message, RunLeaseGranted) or not message.node_id:
            continue
        to = next_position or (finished.position if finished else end)
        last = next((each for each in events if each.position == to), None)
        ended = 0 if last is None else last.envelope.occurred_at.ToMilliseconds()
        held.append(_Held(message.node_id, event.position, to, bool(message.gpu_uuids), ended))
    return held


async def _add_outputs(
    event_log: EventLog, scope: Scope, run_id: str, events: list[RecordedEvent], span: Span
) -> None:
    for event in events:
        message = readable(event)
        if not isinstance(message, RunFinished):
            continue
        if message.HasField("telemetry"):
            scope.marks[event.position] = message.telemetry
        for output in filter(attrgetter("sha256"), message.outputs):
            async for stored in read_stream(event_log, stream_name("artifact", output.sha256), to=span.to):
                written = readable(stored)
                if isinstance(written, ArtifactWritten) and written.origin.run_id == run_id:
                    scope.add(stored)


async def _add_lease(event_log: EventLog, scope: Scope, run_id: str, held: _Held, span: Span) -> None:
    """Add what the node told while the run held it, apart from what it did for other runs."""
    wanted = EventFilter(streams=(stream_name("node", held.node_id),))
    async for event in read_lane(
        event_log, Lane.LANE_DOMAIN, after=held.from_position - 1, to=held.to_position, wanted=wanted
    ):
        message = readable(event)
        if isinstance(message, NodeGpusReserved | NodeGpusReleased) and message.run_id != run_id:
            continue
        scope.add(event)
    if held.has_gpus:
        begin = max(span.after, held.from_position)
        first = await telemetry_at(event_log, begin - 1, span.telemetry_to)
        scope.telemetry.append(_gpu_batches(event_log, run_id, held, first, span.telemetry_to))


async def _gpu_batches(event_log: EventLog, run_id: str, held: _Held, after: int, to: int) -> EventSource:
    """Give the node's GPU batches with samples of a run, and what it says is missing of them."""
    wanted = EventFilter(types=_GPU_BATCHES, actor=f"agent:{held.node_id}")
    async for event in read_lane(event_log, Lane.LANE_TELEMETRY, after=after, to=to, wanted=wanted):
        match readable(event):
            case GpuSamplesRecorded() as samples:
                times = samples.times_unix_milliseconds
                latest = held.ended_unix_milliseconds + _LATE_MILLISECONDS
                if held.ended_unix_milliseconds and times and times[0] > latest:
                    return
                if any(holder.run_id == run_id for holder in samples.holders):
                    yield event
            case SamplesMissing() as missing if not missing.attempt.run_id:
                ended = held.ended_unix_milliseconds
                if not ended or missing.from_unix_milliseconds <= ended:
                    yield event
            case _:
                pass


async def _add_node(event_log: EventLog, scope: Scope, node_id: str, span: Span) -> None:
    open_leases: dict[str, tuple[str, int]] = {}
    leases: list[tuple[str, int, int]] = []
    async for event in read_stream(event_log, stream_name("node", node_id), to=span.to):
        scope.add(event)
        match readable(event):
            case NodeGpusReserved() as reserved:
                open_leases[reserved.lease_id] = (reserved.run_id, event.position)
            case NodeGpusReleased() as released if released.lease_id in open_leases:
                run_id, began = open_leases.pop(released.lease_id)
                leases.append((run_id, began, event.position))
            case _:
                pass
    leases.extend((run_id, began, span.to) for run_id, began in open_leases.values())
    for run_id, began, ended in leases:
        if ended <= span.after:
            continue
        wanted = EventFilter(streams=(stream_name("run", run_id),))
        # A lease is granted and let go together with the run's event, at most a few positions before.
        async for event in read_lane(
            event_log, Lane.LANE_DOMAIN, after=max(0, began - 3), to=min(span.to, ended + 3), wanted=wanted
        ):
            scope.add(event)
    await _add_late_reports(event_log, scope, node_id, span)
    first = await telemetry_at(event_log, max(span.after, 1) - 1, span.telemetry_to)
    wanted = EventFilter(actor=f"agent:{node_id}")
    scope.telemetry.append(
        read_lane(event_log, Lane.LANE_TELEMETRY, after=first, to=span.telemetry_to, wanted=wanted)
    )


async def _add_late_reports(event_log: EventLog, scope: Scope, node_id: str, span: Span) -> None:
    """Add what a node said of leases that it had no more."""
    wanted = EventFilter(types=("runyard.run.stale_report_received",))
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=span.after, to=span.to, wanted=wanted):
        late = readable(event)
        if isinstance(late, RunStaleReportReceived) and late.node_id == node_id:
            scope.add(event)


async def _add_file(event_log: EventLog, scope: Scope, sha256: str, span: Span) -> None:
    """Add how a file came to be, and the events of every run that used it."""
    makers: dict[str, None] = {}
    first = 0
    async for event in read_stream(event_log, stream_name("artifact", sha256), to=span.to):
        scope.add(event)
        first = first or event.position
        written = readable(event)
        if isinstance(written, ArtifactWritten) and written.origin.run_id:
            makers[written.origin.run_id] = None
    for run_id in makers:
        await _add_run(event_log, scope, run_id, span)
    users: Mapping[str, None] = await _users(event_log, sha256, first, span.to)
    for run_id in users:
        async for event in read_stream(event_log, stream_name("run", run_id), to=span.to):
            scope.add(event)


async def _users(event_log: EventLog, sha256: str, first: int, to: int) -> Mapping[str, None]:
    users: dict[str, None] = {}
    wanted = EventFilter(types=("runyard.run.started",))
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=first, to=to, wanted=wanted):
        started = readable(event)
        if isinstance(started, RunStarted) and any(
            file.sha256 == sha256 for given in started.inputs for file in given.files
        ):
            users[started.run_id] = None
    return users


async def committed_sequence(event_log: EventLog, mark: TelemetryMark) -> int:
    """Give the last sequence of a spool that the log has, at most the mark's.

    Raises:
        Unavailable: the log did not answer in time.
    """
    stream = StreamName(stream_name("telemetry", f"{mark.node_id}.{mark.spool_id}"))
    low, high = 0, mark.last_sequence
    while low < high:
        middle = (low + high + 1) // 2
        if await event_log.read_stream(stream, after_version=middle - 1, limit=1):
            low = middle
        else:
            high = middle - 1
    return low
