"""Which events belong to the timeline of a run."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.event.v1.envelope_pb2 import Lane
from runyard.metric.v1.batches_pb2 import GpuSamplesRecorded, SamplesMissing
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.run.v1.events_pb2 import RunFinished, RunLeaseGranted
from runyard_contracts.ids import stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.positions import telemetry_at
from runyard_replay.reading.merging import EventSource
from runyard_replay.reading.pages import read_lane, read_stream
from runyard_replay.reading.scope import Scope, Span
from runyard_replay.views import readable

_LATE_MILLISECONDS = 60_000
"""Samples this long after a lease do not belong to it, whatever the clocks say."""
_GPU_BATCHES = ("runyard.gpu.samples_recorded", "runyard.samples.missing")


async def add_run(event_log: EventLog, scope: Scope, run_id: str, span: Span) -> None:
    """Add all events of a run, of its request, its node while it was held, and its telemetry.

    Raises:
        Unavailable: the log did not answer in time.
    """
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
