"""Packs lines and readings into batches that each fit an event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runyard.metric.v1.batches_pb2 import AttemptRef, LogChunkRecorded, LogStream, MetricPointsRecorded
from runyard_agent.domain.metric_lines import MetricReading, read_metric_line
from runyard_agent.domain.redaction import Redaction
from runyard_agent.domain.secret_free import secret_free_reading

CHUNK_BYTES_MAX = 48 * 1024
"""Text of a chunk; a longer line is a chunk of its own."""
CHUNK_LINES_MAX = 2_000
POINTS_MAX = 500


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line as it was read."""

    text: str
    stream: LogStream.ValueType
    time_unix_milliseconds: int
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class NumberedReading:
    """A metric reading with the line that it was read from."""

    reading: MetricReading
    line_number: int
    time_unix_milliseconds: int
    """What the line says, else when it was read."""


def log_chunks(
    attempt: AttemptRef, first_line_number: int, lines: Sequence[LogLine]
) -> Iterator[LogChunkRecorded]:
    """Pack consecutive lines into chunks, in order."""
    start = 0
    while start < len(lines):
        end = _chunk_end(lines, start)
        chunk = lines[start:end]
        yield LogChunkRecorded(
            attempt=attempt,
            first_line_number=first_line_number + start,
            lines=[line.text for line in chunk],
            streams=[line.stream for line in chunk],
            times_unix_milliseconds=[line.time_unix_milliseconds for line in chunk],
        )
        start = end


def metric_readings(
    first_line_number: int, lines: Sequence[LogLine], redaction: Redaction | None = None
) -> list[NumberedReading]:
    """Read the metric lines among consecutive lines: whole ones of standard output.

    Values of secrets are taken out of what a line says: taken out of its text, they might leave no JSON.
    """
    found = []
    for index, line in enumerate(lines):
        if line.stream != LogStream.LOG_STREAM_STDOUT or not line.is_whole:
            continue
        reading = read_metric_line(line.text)
        if reading is not None:
            if redaction is not None and redaction.longest_bytes:
                reading = secret_free_reading(reading, redaction)
            said = reading.time_unix_milliseconds
            time = line.time_unix_milliseconds if said is None else said
            found.append(NumberedReading(reading, first_line_number + index, time))
    return found


def metric_batches(
    attempt: AttemptRef, readings: Sequence[NumberedReading]
) -> Iterator[MetricPointsRecorded]:
    """Pack readings into batches, in order; a reading is never split."""
    batch = MetricPointsRecorded(attempt=attempt)
    indices: dict[str, int] = {}
    for numbered in readings:
        if batch.values and (
            len(batch.values) + len(numbered.reading.numbers) > POINTS_MAX
            or batch.ByteSize() > CHUNK_BYTES_MAX
        ):
            yield batch
            batch, indices = MetricPointsRecorded(attempt=attempt), {}
        for name, value in numbered.reading.numbers.items():
            batch.name_indices.append(indices.setdefault(name, len(indices)))
            batch.times_unix_milliseconds.append(numbered.time_unix_milliseconds)
            batch.line_numbers.append(numbered.line_number)
            batch.values.append(value)
        batch.names.extend(list(indices)[len(batch.names) :])
        for name, encoded in numbered.reading.json_values.items():
            batch.json_values[name] = encoded
            batch.json_times_unix_milliseconds[name] = numbered.time_unix_milliseconds
    if batch.values or batch.json_values:
        yield batch


def _chunk_end(lines: Sequence[LogLine], start: int) -> int:
    size = 0
    for index in range(start, min(len(lines), start + CHUNK_LINES_MAX)):
        size += len(lines[index].text.encode())
        if size > CHUNK_BYTES_MAX and index > start:
            return index
    return min(len(lines), start + CHUNK_LINES_MAX)
