"""Metric points of a batch -> one row a metric with its points and the figures of all so far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from runyard.metric.v1.batches_pb2 import MetricPointsRecorded
from runyard_core.projection import Put, RowKey, Rows
from runyard_metrics.domain.coverage import LineRange
from runyard_metrics.domain.keys import key_text
from runyard_metrics.tables import METRIC_PROGRESS, METRIC_SERIES, MetricProgressRow, MetricSeriesRow


@dataclass(slots=True)
class _Column:
    """What a batch has of one metric."""

    times: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    json_value: str = ""
    json_time: int = 0


def points_reads(points: MetricPointsRecorded) -> Iterator[RowKey]:
    """Name the rows that the points of a batch touch."""
    attempt = (key_text(points.attempt.run_id), points.attempt.attempt)
    yield RowKey(METRIC_PROGRESS.name, attempt)
    for name in sorted({key_text(name) for name in (*points.names, *points.json_values)}):
        yield RowKey(METRIC_SERIES.name, (*attempt, name))


def apply_points(
    points: MetricPointsRecorded, spool_id: str, position: int, rows: Rows
) -> Iterator[Put[Any]]:
    """Put the points of each metric that no other spool told of, and the attempt's totals.

    Raises:
        ValueError: columns of different length, or an index that names no metric.
    """
    run_id, attempt = key_text(points.attempt.run_id), points.attempt.attempt
    totals = rows.get(METRIC_PROGRESS, run_id, attempt)
    told = _told(totals)
    # A spool that a node begins anew tells of the attempt from its first line on.
    columns = _columns(points, [lines for each, lines in told.items() if each != spool_id])
    if points.line_numbers:
        own = told.get(spool_id)
        lines = (*points.line_numbers, *((own.first, own.last) if own else ()))
        told[spool_id] = LineRange(min(lines), max(lines))
    for name, column in sorted(columns.items()):
        before = rows.get(METRIC_SERIES, run_id, attempt, name) or _nothing(run_id, attempt, name)
        yield Put(METRIC_SERIES, _continued(before, column, position))
    new_count = sum(len(column.values) for column in columns.values())
    progress = MetricProgressRow(
        run_id=run_id,
        attempt=attempt,
        position=position,
        point_count=(totals.point_count if totals else 0) + new_count,
        names=tuple(sorted(columns)),
        spool_ids=tuple(told),
        spool_firsts=tuple(lines.first for lines in told.values()),
        spool_lasts=tuple(lines.last for lines in told.values()),
    )
    yield Put(METRIC_PROGRESS, progress)


def _told(totals: MetricProgressRow | None) -> dict[str, LineRange]:
    """Spool -> lines that it told of."""
    if totals is None:
        return {}
    lines = map(LineRange, totals.spool_firsts, totals.spool_lasts)
    return dict(zip(totals.spool_ids, lines, strict=True))


def _columns(points: MetricPointsRecorded, told_by_others: Sequence[LineRange]) -> dict[str, _Column]:
    names = [key_text(name) for name in points.names]
    columns: dict[str, _Column] = {}
    known: set[str] = set()
    for index, time, line, value in zip(
        points.name_indices,
        points.times_unix_milliseconds,
        points.line_numbers,
        points.values,
        strict=True,
    ):
        if index >= len(names):
            raise ValueError(f"name index {index} of {len(names)} names")
        if any(line in lines for lines in told_by_others):
            known.add(names[index])
            continue
        column = columns.setdefault(names[index], _Column())
        column.times.append(time)
        column.lines.append(line)
        column.values.append(value)
    for name, text in points.json_values.items():
        if key_text(name) in known:
            continue
        column = columns.setdefault(key_text(name), _Column())
        column.json_value = text
        column.json_time = points.json_times_unix_milliseconds.get(name, 0)
    return columns


def _continued(before: MetricSeriesRow, column: _Column, position: int) -> MetricSeriesRow:
    numbers = [value for value in column.values if not math.isnan(value)]
    lows = [before.low] * bool(before.number_count) + numbers
    last_value, last_line, last_time = before.last_value, before.last_line, before.last_time_unix_milliseconds
    last_json = before.last_json
    for line, time, value in zip(column.lines, column.times, column.values, strict=True):
        # By line and not by arrival: an older spool of the node may be committed after a newer one.
        if line >= last_line:
            last_value, last_line, last_time, last_json = value, line, time, ""
    if column.json_value and not column.values:
        last_json, last_time = column.json_value, column.json_time or last_time
    return MetricSeriesRow(
        run_id=before.run_id,
        attempt=before.attempt,
        name=before.name,
        position=position,
        times_unix_milliseconds=tuple(column.times),
        line_numbers=tuple(column.lines),
        values=tuple(column.values),
        point_count=before.point_count + len(column.values),
        low=min(lows, default=0.0),
        high=max([before.high] * bool(before.number_count) + numbers, default=0.0),
        number_count=before.number_count + len(numbers),
        last_value=last_value,
        last_line=last_line,
        last_time_unix_milliseconds=last_time,
        last_json=last_json,
    )


def _nothing(run_id: str, attempt: int, name: str) -> MetricSeriesRow:
    return MetricSeriesRow(
        run_id=run_id,
        attempt=attempt,
        name=name,
        position=0,
        times_unix_milliseconds=(),
        line_numbers=(),
        values=(),
        point_count=0,
        low=0.0,
        high=0.0,
        number_count=0,
        last_value=0.0,
        last_line=0,
        last_time_unix_milliseconds=0,
        last_json="",
    )
