"""From messages to spool records: each batch gets its envelope, each attempt its line numbers and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from google.protobuf.message import Message

from runyard.metric.v1.batches_pb2 import (
    AttemptRef,
    GpuIncidentSeen,
    GpuSamplesRecorded,
    HostSamplesRecorded,
    LogChunkRecorded,
    LogStream,
    MetricPointsRecorded,
    SamplesMissing,
)
from runyard.run.v1.types_pb2 import TelemetryMark
from runyard_agent.domain.batching import LogLine, log_chunks, metric_batches, metric_readings
from runyard_agent.domain.redaction import Redaction
from runyard_agent.spool import Spool
from runyard_agent.spool_file import Mark
from runyard_agent.telemetry_envelope import NO_CAUSE, Cause, envelope_bytes
from runyard_core.clock import Clock

_KINDS: Mapping[type[Message], str] = {
    LogChunkRecorded: "log",
    MetricPointsRecorded: "metric",
    GpuSamplesRecorded: "gpu",
    GpuIncidentSeen: "gpu",
    HostSamplesRecorded: "host",
    SamplesMissing: "missing",
}


class Telemetry:
    """The node's way into its spool."""

    def __init__(self, spool: Spool, node_id: str, clock: Clock) -> None:
        """Write into this spool, in the name of this node."""
        self.spool = spool
        self.node_id = node_id
        self.clock = clock

    def now_unix_milliseconds(self) -> int:
        """Give the time of day for samples and lines."""
        return round(self.clock.now().timestamp() * 1000)

    def record(
        self,
        batches: Sequence[Message],
        cause: Cause = NO_CAUSE,
        marks: Mapping[str, Mark | None] | None = None,
    ) -> int:
        """Put batches and marks into the spool as one step; gives the last sequence."""
        first, now = self.spool.next_sequence, self.clock.now()
        records = [
            (
                _KINDS[type(batch)],
                envelope_bytes(batch, self.node_id, self.spool.spool_id, first + index, now, cause),
            )
            for index, batch in enumerate(batches)
        ]
        return self.spool.append(records, marks)


class AttemptTelemetry:
    """Telemetry of one attempt. What it counts lives in the spool, written together with what is counted."""

    def __init__(
        self,
        telemetry: Telemetry,
        run_id: str,
        attempt: int,
        cause: Cause,
        redaction: Redaction | None = None,
    ) -> None:
        """Go on where the spool's mark of this attempt says, also after a restart of the agent.

        Every line goes through the redaction before anything else sees it.
        """
        self.redaction = redaction or Redaction()
        self.ref = AttemptRef(run_id=run_id, attempt=attempt)
        self._telemetry = telemetry
        self._cause = cause
        self._key = f"{run_id}/{attempt}"
        self._mark: dict[str, int] = dict(telemetry.spool.marks.get(self._key, {}))

    @property
    def has_room(self) -> bool:
        """False when lines must wait in their file."""
        return self._telemetry.spool.has_room

    def position(self, name: str) -> int:
        """Give a number that ``write_lines`` kept; 0 at first."""
        return self._mark.get(name, 0)

    def now_unix_milliseconds(self) -> int:
        """Give the time of day for lines."""
        return self._telemetry.now_unix_milliseconds()

    def write_lines(self, lines: Sequence[LogLine], positions: Mapping[str, int] | None = None) -> None:
        """Number lines, read the metrics among them, and keep positions in the same step."""
        first = self._mark.get("log_line_count", 0) + 1
        readings = metric_readings(first, lines, self.redaction)
        if self.redaction.longest_bytes:
            lines = [replace(line, text=self.redaction.of(line.text)) for line in lines]
        batches = [*log_chunks(self.ref, first, lines), *metric_batches(self.ref, readings)]
        point_count = sum(len(numbered.reading.numbers) for numbered in readings)
        self._record(
            batches,
            {
                "log_line_count": self._mark.get("log_line_count", 0) + len(lines),
                "metric_point_count": self._mark.get("metric_point_count", 0) + point_count,
                **(positions or {}),
            },
        )

    def write_status(self, text: str) -> None:
        """Write a line of the agent itself."""
        now = self.now_unix_milliseconds()
        self.write_lines([LogLine(line, LogStream.LOG_STREAM_STATUS, now) for line in text.splitlines()])

    def write_samples(self, samples: HostSamplesRecorded, kept: Mapping[str, int] | None = None) -> None:
        """Write samples of the attempt's processes, and keep numbers for ``position`` in the same step."""
        count = self._mark.get("sample_count", 0) + len(samples.times_unix_milliseconds)
        self._record([samples], {"sample_count": count, **(kept or {})})

    def write_missing(self, missing: SamplesMissing) -> None:
        """Write that samples of the attempt are missing."""
        self._record([missing], {})

    def write_gpu_incident(self, seen: GpuIncidentSeen, kept: Mapping[str, int]) -> None:
        """Write what happened to a GPU of the attempt, and keep numbers for ``position`` in the same step."""
        self._record([seen], kept)

    def mark_with_gpu_samples(self, sample_count: int) -> tuple[str, Mark]:
        """Give key and mark to write together with a batch of GPU samples, some of them of this attempt.

        Give the mark to ``has_written`` when that is done.
        """
        count = self._mark.get("sample_count", 0) + sample_count
        sequence = self._telemetry.spool.next_sequence
        return self._key, {**self._mark, "sample_count": count, "last_sequence": sequence}

    def has_written(self, mark: Mark) -> None:
        """Take note that a mark is in the spool."""
        self._mark = dict(mark)

    def telemetry_mark(self) -> TelemetryMark:
        """Say up to where the spool holds this attempt, with its totals."""
        return TelemetryMark(
            node_id=self._telemetry.node_id,
            spool_id=self._telemetry.spool.spool_id,
            last_sequence=self._mark.get("last_sequence", 0),
            log_line_count=self._mark.get("log_line_count", 0),
            metric_point_count=self._mark.get("metric_point_count", 0),
            sample_count=self._mark.get("sample_count", 0),
        )

    async def sync(self) -> None:
        """Put everything of the attempt on the disk."""
        await self._telemetry.spool.sync()

    def forget(self) -> None:
        """Let go of the mark; the attempt is over and will not be asked about again."""
        self._telemetry.record([], marks={self._key: None})

    def _record(self, batches: Sequence[Message], changes: Mapping[str, int]) -> None:
        mark = {**self._mark, **changes}
        mark["last_sequence"] = self._telemetry.spool.next_sequence + len(batches) - 1
        self._telemetry.record(batches, self._cause, {self._key: mark})
        self._mark = mark
