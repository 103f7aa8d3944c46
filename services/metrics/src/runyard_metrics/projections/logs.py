"""Log lines of a batch -> chunks without overlap, and the totals of the attempt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runyard.metric.v1.batches_pb2 import LogChunkRecorded
from runyard_core.projection import Put, RowKey, Rows
from runyard_metrics.domain.coverage import LineRange, coverage_of
from runyard_metrics.domain.keys import key_text
from runyard_metrics.tables import LOG_CHUNK, LOG_PROGRESS, LogChunkRow, LogProgressRow


def log_reads(chunk: LogChunkRecorded) -> Iterator[RowKey]:
    """Name the rows that the lines of a chunk touch."""
    yield RowKey(LOG_PROGRESS.name, (key_text(chunk.attempt.run_id), chunk.attempt.attempt))


def apply_log_chunk(chunk: LogChunkRecorded, position: int, rows: Rows) -> Iterator[Put[Any]]:
    """Put the lines that are new; a line number that the attempt has already changes nothing.

    Raises:
        ValueError: columns of different length, or a first line below 1.
    """
    run_id, attempt = key_text(chunk.attempt.run_id), chunk.attempt.attempt
    _check(chunk)
    before = rows.get(LOG_PROGRESS, run_id, attempt)
    coverage = coverage_of(before.range_firsts, before.range_lasts) if before else coverage_of((), ())
    text_bytes = before.text_bytes if before else 0
    added_firsts: list[int] = []
    if chunk.lines:
        whole = LineRange(chunk.first_line_number, chunk.first_line_number + len(chunk.lines) - 1)
        for fresh in coverage.missing_of(whole):
            part = chunk if fresh == whole else _part(chunk, fresh)
            size = sum(len(line.encode()) for line in part.lines)
            text_bytes += size
            added_firsts.append(fresh.first)
            row = LogChunkRow(
                run_id=run_id,
                attempt=attempt,
                first_line=fresh.first,
                position=position,
                line_count=fresh.line_count,
                text_bytes=size,
                payload=part.SerializeToString(deterministic=True),
            )
            yield Put(LOG_CHUNK, row)
        coverage = coverage.with_range(whole)
    progress = LogProgressRow(
        run_id=run_id,
        attempt=attempt,
        position=position,
        line_count=coverage.line_count,
        text_bytes=text_bytes,
        range_firsts=tuple(each.first for each in coverage.ranges),
        range_lasts=tuple(each.last for each in coverage.ranges),
        added_firsts=tuple(added_firsts),
    )
    yield Put(LOG_PROGRESS, progress)


def _check(chunk: LogChunkRecorded) -> None:
    lengths = {len(chunk.lines), len(chunk.streams), len(chunk.times_unix_milliseconds)}
    if len(lengths) != 1:
        raise ValueError(f"columns of a log chunk have different lengths: {sorted(lengths)}")
    if chunk.first_line_number < 1:
        raise ValueError(f"first line number is {chunk.first_line_number}, want 1 or more")


def _part(chunk: LogChunkRecorded, wanted: LineRange) -> LogChunkRecorded:
    start = wanted.first - chunk.first_line_number
    end = start + wanted.line_count
    return LogChunkRecorded(
        attempt=chunk.attempt,
        first_line_number=wanted.first,
        lines=chunk.lines[start:end],
        streams=chunk.streams[start:end],
        times_unix_milliseconds=chunk.times_unix_milliseconds[start:end],
    )
