"""What does not fit in a timeline: clocks that disagree, samples and lines that are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import TimelineFlag, TimelineFlagKind
from runyard.metric.v1 import batches_pb2 as batches
from runyard.run.v1.events_pb2 import RunAttemptExited
from runyard.run.v1.types_pb2 import TelemetryMark
from runyard_contracts.recorded import RecordedEvent
from runyard_core.counted import count_words
from runyard_replay.folding.order import recording_delay_milliseconds
from runyard_replay.pricing.explanation import duration_text

SKEW_MILLISECONDS_MAX = 2_000
"""Beyond it the two clocks of an event are flagged."""
SILENCE_MILLISECONDS_MAX = 5_000
"""Samples come every second; a longer pause between two batches of a kind is flagged."""

_Series = tuple[str, str, str, int]
"""Stream, kind, run, attempt."""


class GapWatch:
    """Looks at one event after the other, in the order of the timeline."""

    def __init__(self) -> None:
        """Start before the first event."""
        self._sampled_to: dict[_Series, int] = {}
        self._next_line: dict[_Series, int] = {}

    def flags(self, event: RecordedEvent, message: Message | None) -> list[TimelineFlag]:
        """Give what does not fit about the next event; its message is None when it cannot be read."""
        return [*_skew(event), *self._gaps(event, message)]

    def _gaps(self, event: RecordedEvent, message: Message | None) -> Iterator[TimelineFlag]:
        stream = event.envelope.stream
        match message:
            case batches.SamplesMissing():
                reason = f": {message.reason}" if message.reason else ""
                missing = count_words(message.sample_count, f"missing {message.kind} sample")
                yield _gap(f"{missing}{reason}")
                series = _series(stream, message.kind, message.attempt)
                self._sampled_to[series] = max(message.to_unix_milliseconds, self._sampled_to.get(series, 0))
            case batches.GpuSamplesRecorded():
                times = message.times_unix_milliseconds
                yield from self._silence((stream, "gpu", "", 0), times)
            case batches.HostSamplesRecorded():
                series = _series(stream, "host", message.attempt)
                yield from self._silence(series, message.times_unix_milliseconds)
            case batches.LogChunkRecorded():
                yield from self._lines(_series("", "log", message.attempt), message)
            case RunAttemptExited() if message.HasField("exited_at"):
                yield from self._silence_at_end(message)
            case _:
                pass

    def _silence_at_end(self, exited: RunAttemptExited) -> Iterator[TimelineFlag]:
        """Flag samples that are missing at the end, where no later batch shows that they are."""
        ended = exited.exited_at.ToMilliseconds()
        for (_, kind, run_id, attempt), sampled_to in self._sampled_to.items():
            same = (kind, run_id, attempt) == ("host", exited.run_id, exited.attempt)
            if same and ended - sampled_to > SILENCE_MILLISECONDS_MAX:
                yield _gap(f"no {kind} samples for {duration_text(ended - sampled_to)} before the end")

    def _silence(self, series: _Series, times: Sequence[int]) -> Iterator[TimelineFlag]:
        if not times:
            return
        before = self._sampled_to.get(series)
        if before is not None and times[0] - before > SILENCE_MILLISECONDS_MAX:
            yield _gap(f"no {series[1]} samples for {duration_text(times[0] - before)} before these")
        self._sampled_to[series] = max(times[-1], before or 0)

    def _lines(self, series: _Series, chunk: batches.LogChunkRecorded) -> Iterator[TimelineFlag]:
        expected = self._next_line.get(series)
        if expected is not None and chunk.first_line_number != expected:
            yield _gap(f"line {chunk.first_line_number} follows line {expected - 1}")
        self._next_line[series] = chunk.first_line_number + len(chunk.lines)


def incompleteness(mark: TelemetryMark, committed_sequence: int) -> list[TimelineFlag]:
    """Flag a spool of which the log lacks a part, counted by its agent when the attempt ended."""
    if not mark.spool_id or committed_sequence >= mark.last_sequence:
        return []
    missing = mark.last_sequence - committed_sequence
    detail = (
        f"the log has batches up to {committed_sequence} of spool {mark.spool_id} of {mark.node_id}; "
        f"the attempt's telemetry ends at {mark.last_sequence}, so up to {missing} are missing"
    )
    return [TimelineFlag(kind=TimelineFlagKind.TIMELINE_FLAG_KIND_INCOMPLETE, detail=detail)]


def _skew(event: RecordedEvent) -> Iterator[TimelineFlag]:
    delay = recording_delay_milliseconds(event.envelope)
    if abs(delay) <= SKEW_MILLISECONDS_MAX:
        return
    ahead = "before it happened by its producer's clock" if delay < 0 else "after it happened"
    late = (
        " (telemetry waits on its node while the log is away)"
        if event.envelope.lane == (Lane.LANE_TELEMETRY)
        else ""
    )
    detail = f"recorded {duration_text(abs(delay))} {ahead}{late if delay > 0 else ''}"
    yield TimelineFlag(kind=TimelineFlagKind.TIMELINE_FLAG_KIND_SKEW, detail=detail)


def _series(stream: str, kind: str, attempt: batches.AttemptRef) -> _Series:
    return (stream, kind, attempt.run_id, attempt.attempt)


def _gap(detail: str) -> TimelineFlag:
    return TimelineFlag(kind=TimelineFlagKind.TIMELINE_FLAG_KIND_GAP, detail=detail)
