"""Samples of machines -> running statistics of attempts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from runyard.metric.v1.batches_pb2 import HostSamplesRecorded
from runyard_core.projection import Put, RowKey, Rows
from runyard_metrics.domain.keys import key_text
from runyard_metrics.domain.statistics import Extent
from runyard_metrics.tables import HOST_USAGE, HostUsageRow


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


def _highest(counters: Sequence[int], before: int) -> int:
    return max((*counters, before))


def _check_lengths(wanted: int, *columns: Sequence[object]) -> None:
    lengths = [len(column) for column in columns]
    if any(length != wanted for length in lengths):
        raise ValueError(f"columns have lengths {lengths}, want {wanted}")
