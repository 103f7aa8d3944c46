"""Rows -> messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runyard.metric.v1.batches_pb2 import LogChunkRecorded
from runyard.metric.v1.metric_service_pb2 import (
    GetRunSummaryResponse,
    LogLine,
    MetricLatest,
    Series,
    Statistic,
)
from runyard_metrics.domain.statistics import Extent
from runyard_metrics.domain.times import is_time
from runyard_metrics.gpu_answers import gpu_statistics, incident_messages
from runyard_metrics.handlers import Summary, ThinnedSeries
from runyard_metrics.tables import HostUsageRow, MetricSeriesRow

_COUNTERS = ("disk_read_bytes", "disk_written_bytes", "network_received_bytes", "network_sent_bytes")


def summary_message(summary: Summary) -> GetRunSummaryResponse:
    """Write a summary."""
    gpu_samples = sum(sum(row.sample_counts) for row in summary.gpus)
    return GetRunSummaryResponse(
        attempt=summary.attempt,
        metrics=[latest_message(row) for row in summary.metrics],
        has_more_metrics=summary.has_more_metrics,
        statistics=[*_host_statistics(summary.host), *gpu_statistics(summary.gpus)],
        log_line_count=summary.log.line_count if summary.log else 0,
        log_bytes=summary.log.text_bytes if summary.log else 0,
        metric_point_count=summary.metric_point_count,
        sample_count=sum(row.sample_count for row in summary.host) + gpu_samples,
        telemetry_position=summary.moment.telemetry,
        gpu_incidents=incident_messages(summary.gpu_incidents),
    )


def latest_message(row: MetricSeriesRow) -> MetricLatest:
    """Write the newest value of a metric."""
    latest = MetricLatest(
        name=row.name,
        value=0.0 if row.last_json else row.last_value,
        json_value=row.last_json,
        point_count=row.point_count,
        min=row.low,
        max=row.high,
    )
    if row.last_time_unix_milliseconds and is_time(row.last_time_unix_milliseconds):
        latest.time.FromMilliseconds(row.last_time_unix_milliseconds)
    return latest


def series_message(series: ThinnedSeries) -> Series:
    """Write a series."""
    return Series(
        name=series.name,
        times_unix_milliseconds=series.times_unix_milliseconds,
        values=series.values,
        point_count=series.point_count,
    )


def line_messages(
    chunks: Iterable[LogChunkRecorded], first_line: int = 1, last_line: int | None = None
) -> Iterator[LogLine]:
    """Write the lines of chunks whose numbers are within a range, in the order of the chunks."""
    for chunk in chunks:
        numbered = zip(chunk.lines, chunk.streams, chunk.times_unix_milliseconds, strict=True)
        for number, (text, stream, time) in enumerate(numbered, start=chunk.first_line_number):
            if number >= first_line and (last_line is None or number <= last_line):
                yield LogLine(
                    number=number,
                    stream=stream,
                    time_unix_milliseconds=time,
                    text=text,
                    attempt=chunk.attempt.attempt,
                )


def _host_statistics(rows: list[HostUsageRow]) -> Iterator[Statistic]:
    if not rows:
        return
    cpu, memory = Extent(), Extent()
    for row in rows:
        count = row.sample_count
        cpu = cpu.merged(
            Extent(count, row.cpu_millicores_low, row.cpu_millicores_total, row.cpu_millicores_high)
        )
        memory = memory.merged(
            Extent(count, row.memory_bytes_low, row.memory_bytes_total, row.memory_bytes_high)
        )
    yield _statistic("cpu_millicores", cpu)
    yield _statistic("memory_used_bytes", memory)
    for name in _COUNTERS:
        total = float(sum(getattr(row, name) for row in rows))
        # A counter has one figure, its last.
        yield Statistic(name=f"{name}_total", min=total, mean=total, max=total, sample_count=cpu.count)


def _statistic(name: str, extent: Extent) -> Statistic:
    return Statistic(
        name=name,
        min=extent.low,
        mean=extent.mean,
        max=extent.high,
        sample_count=extent.count,
    )
