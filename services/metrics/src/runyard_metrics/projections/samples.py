"""Samples of machines and GPUs -> running statistics of attempts, and the newest reading of each GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from runyard.metric.v1.batches_pb2 import GpuSamplesRecorded, HostSamplesRecorded
from runyard_core.projection import Put, RowKey, Rows
from runyard_metrics.domain.keys import key_text
from runyard_metrics.domain.statistics import Extent
from runyard_metrics.tables import (
    GPU_READING,
    GPU_USAGE,
    HOST_USAGE,
    GpuReadingRow,
    GpuUsageRow,
    HostUsageRow,
)

QUANTITIES = ("utilization_percent", "memory_bytes", "power_milliwatts", "temperature_celsius")
"""What is kept of a GPU: the starts of the names of the columns of GpuUsageRow."""


def host_reads(samples: HostSamplesRecorded) -> Iterator[RowKey]:
    """Name the rows that host samples touch."""
    attempt = samples.attempt
    yield RowKey(HOST_USAGE.name, (key_text(attempt.run_id), attempt.attempt, key_text(samples.node_id)))


def apply_host_samples(samples: HostSamplesRecorded, position: int, rows: Rows) -> Iterator[Put[Any]]:
    """Put the attempt's statistics on this node.

    Raises:
        ValueError: columns of different length.
    """
    run_id, attempt = key_text(samples.attempt.run_id), samples.attempt.attempt
    node_id = key_text(samples.node_id)
    _check_lengths(len(samples.times_unix_milliseconds), samples.cpu_millicores, samples.memory_used_bytes)
    before = rows.get(HOST_USAGE, run_id, attempt, node_id)
    cpu, memory = Extent(), Extent()
    if before is not None:
        cpu = Extent(
            before.sample_count,
            before.cpu_millicores_low,
            before.cpu_millicores_total,
            before.cpu_millicores_high,
        )
        memory = Extent(
            before.sample_count, before.memory_bytes_low, before.memory_bytes_total, before.memory_bytes_high
        )
    cpu = cpu.with_samples(map(float, samples.cpu_millicores))
    memory = memory.with_samples(map(float, samples.memory_used_bytes))
    row = HostUsageRow(
        run_id=run_id,
        attempt=attempt,
        node_id=node_id,
        position=position,
        sample_count=cpu.count,
        cpu_millicores_low=cpu.low,
        cpu_millicores_total=cpu.total,
        cpu_millicores_high=cpu.high,
        memory_bytes_low=memory.low,
        memory_bytes_total=memory.total,
        memory_bytes_high=memory.high,
        disk_read_bytes=_highest(samples.disk_read_bytes, before.disk_read_bytes if before else 0),
        disk_written_bytes=_highest(samples.disk_written_bytes, before.disk_written_bytes if before else 0),
        network_received_bytes=_highest(
            samples.network_received_bytes, before.network_received_bytes if before else 0
        ),
        network_sent_bytes=_highest(samples.network_sent_bytes, before.network_sent_bytes if before else 0),
        network_is_host=samples.network_is_host,
    )
    yield Put(HOST_USAGE, row)


def gpu_reads(samples: GpuSamplesRecorded) -> Iterator[RowKey]:
    """Name the rows that GPU samples touch."""
    node_id = key_text(samples.node_id)
    yield RowKey(GPU_READING.name, (node_id,))
    for run_id, attempt in _holders(samples):
        yield RowKey(GPU_USAGE.name, (run_id, attempt, node_id))


def apply_gpu_samples(samples: GpuSamplesRecorded, position: int, rows: Rows) -> Iterator[Put[Any]]:
    """Put the node's newest readings, and the statistics of each attempt that holds a GPU there.

    Raises:
        ValueError: columns of different length.
    """
    gpu_count, row_count = len(samples.gpu_uuids), len(samples.times_unix_milliseconds)
    _check_lengths(gpu_count, samples.holders)
    columns = (
        samples.utilization_percents,
        samples.memory_used_bytes,
        samples.power_milliwatts,
        samples.temperature_celsius,
    )
    _check_lengths(gpu_count * row_count, *columns)
    if not columns[0]:
        return
    node_id = key_text(samples.node_id)
    newest = rows.get(GPU_READING, node_id)
    if newest is None or samples.times_unix_milliseconds[-1] >= newest.time_unix_milliseconds:
        yield Put(GPU_READING, _reading(samples, position))
    for (run_id, attempt), held in _holders(samples).items():
        before = rows.get(GPU_USAGE, run_id, attempt, node_id)
        usage = _usage_of(before)
        for index in held:
            extents = usage.get(samples.gpu_uuids[index], (Extent(),) * len(QUANTITIES))
            usage[samples.gpu_uuids[index]] = tuple(
                extent.with_samples(map(float, column[index::gpu_count]))
                for extent, column in zip(extents, columns, strict=True)
            )
        yield Put(GPU_USAGE, _usage_row(run_id, attempt, node_id, position, usage))


def usage_of(row: GpuUsageRow) -> dict[str, tuple[Extent, ...]]:
    """Read the figures of each GPU out of a row: GPU UUID -> one extent for each of ``QUANTITIES``."""
    return {
        gpu_uuid: tuple(
            Extent(
                row.sample_counts[index],
                getattr(row, f"{quantity}_lows")[index],
                getattr(row, f"{quantity}_totals")[index],
                getattr(row, f"{quantity}_highs")[index],
            )
            for quantity in QUANTITIES
        )
        for index, gpu_uuid in enumerate(row.gpu_uuids)
    }


def _usage_of(row: GpuUsageRow | None) -> dict[str, tuple[Extent, ...]]:
    return {} if row is None else usage_of(row)


def _usage_row(
    run_id: str, attempt: int, node_id: str, position: int, usage: dict[str, tuple[Extent, ...]]
) -> GpuUsageRow:
    by_quantity = list(zip(*usage.values(), strict=True))
    columns: dict[str, tuple[float, ...]] = {}
    for quantity, extents in zip(QUANTITIES, by_quantity, strict=True):
        columns[f"{quantity}_lows"] = tuple(extent.low for extent in extents)
        columns[f"{quantity}_totals"] = tuple(extent.total for extent in extents)
        columns[f"{quantity}_highs"] = tuple(extent.high for extent in extents)
    return GpuUsageRow(
        run_id=run_id,
        attempt=attempt,
        node_id=node_id,
        position=position,
        gpu_uuids=tuple(usage),
        sample_counts=tuple(extents[0].count for extents in usage.values()),
        **columns,
    )


def _reading(samples: GpuSamplesRecorded, position: int) -> GpuReadingRow:
    last = slice(-len(samples.gpu_uuids), None)
    return GpuReadingRow(
        node_id=key_text(samples.node_id),
        position=position,
        time_unix_milliseconds=samples.times_unix_milliseconds[-1],
        gpu_uuids=tuple(samples.gpu_uuids),
        holder_run_ids=tuple(holder.run_id for holder in samples.holders),
        holder_attempts=tuple(holder.attempt for holder in samples.holders),
        utilization_percents=tuple(samples.utilization_percents[last]),
        memory_used_bytes=tuple(samples.memory_used_bytes[last]),
        power_milliwatts=tuple(samples.power_milliwatts[last]),
        temperature_celsius=tuple(samples.temperature_celsius[last]),
    )


def _holders(samples: GpuSamplesRecorded) -> dict[tuple[str, int], list[int]]:
    """Attempt -> indices of the GPUs that it holds, attempts in the order of their first GPU."""
    held: dict[tuple[str, int], list[int]] = {}
    for index, holder in enumerate(samples.holders):
        if holder.run_id:
            held.setdefault((key_text(holder.run_id), holder.attempt), []).append(index)
    return held


def _highest(counters: Sequence[int], before: int) -> int:
    return max((*counters, before))


def _check_lengths(wanted: int, *columns: Sequence[object]) -> None:
    lengths = [len(column) for column in columns]
    if any(length != wanted for length in lengths):
        raise ValueError(f"columns have lengths {lengths}, want {wanted}")
