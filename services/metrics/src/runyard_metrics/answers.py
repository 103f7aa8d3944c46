"""Rows -> messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runyard.metric.v1.batches_pb2 import AttemptRef, LogChunkRecorded
from runyard.metric.v1.metric_service_pb2 import (
    GetRunSummaryResponse,
    GpuReading,
    LogLine,
    MetricLatest,
    Series,
    Statistic,
)
from runyard_metrics.domain.statistics import Extent
from runyard_metrics.handlers import Summary, ThinnedSeries
from runyard_metrics.projections.samples import usage_of
from runyard_metrics.tables import GpuReadingRow, GpuUsageRow, HostUsageRow, MetricSeriesRow

_GPU_STATISTICS = (
    "gpu_utilization_percent",
    "gpu_memory_used_bytes",
    "gpu_power_milliwatts",
    "gpu_temperature_celsius",
)
"""Names of the figures of a GPU, in the order of ``samples.QUANTITIES``."""
_COUNTERS = ("disk_read_bytes", "disk_written_bytes", "network_received_bytes", "network_sent_bytes")


def summary_message(summary: Summary) -> GetRunSummaryResponse:
    """Write a summary."""
    gpu_samples = sum(sum(row.sample_counts) for row in summary.gpus)
    return GetRunSummaryResponse(
        attempt=summary.attempt,
        metrics=[latest_message(row) for row in summary.metrics],
        statistics=[*_host_statistics(summary.host), *_gpu_statistics(summary.gpus)],
        log_line_count=summary.log.line_count if summary.log else 0,
        log_bytes=summary.log.text_bytes if summary.log else 0,
        metric_point_count=summary.metric_point_count,
        sample_count=sum(row.sample_count for row in summary.host) + gpu_samples,
        telemetry_position=summary.moment.telemetry,
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
    if row.last_time_unix_milliseconds:
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


def reading_messages(row: GpuReadingRow) -> Iterator[GpuReading]:
    """Write the newest reading of each GPU of a node."""
    for index, gpu_uuid in enumerate(row.gpu_uuids):
        reading = GpuReading(
            node_id=row.node_id,
            gpu_uuid=gpu_uuid,
            holder=AttemptRef(run_id=row.holder_run_ids[index], attempt=row.holder_attempts[index]),
            utilization_percent=row.utilization_percents[index],
            memory_used_bytes=row.memory_used_bytes[index],
            power_milliwatts=row.power_milliwatts[index],
            temperature_celsius=row.temperature_celsius[index],
        )
        reading.time.FromMilliseconds(row.time_unix_milliseconds)
        yield reading


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


def _gpu_statistics(rows: list[GpuUsageRow]) -> Iterator[Statistic]:
    for row in rows:
        for gpu_uuid, extents in usage_of(row).items():
            for name, extent in zip(_GPU_STATISTICS, extents, strict=True):
                yield _statistic(name, extent, gpu_uuid)


def _statistic(name: str, extent: Extent, gpu_uuid: str = "") -> Statistic:
    return Statistic(
        name=name,
        gpu_uuid=gpu_uuid,
        min=extent.low,
        mean=extent.mean,
        max=extent.high,
        sample_count=extent.count,
    )
