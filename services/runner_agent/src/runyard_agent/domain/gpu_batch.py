"""Rows of GPU samples -> one batch, packed: values once and then differences, only what the cards offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runyard.metric.v1.batches_pb2 import AttemptRef, GpuSamplesRecorded
from runyard.metric.v1.gpus_pb2 import GpuProcessColumn, GpuProcessOwner, GpuQuantity
from runyard_agent.domain.gpu_sample import GpuProcess, GpuSample
from runyard_contracts.gpu_columns import (
    ENERGY_BIT,
    MEMORY_BIT,
    POWER_BIT,
    TEMPERATURE_BIT,
    UTILIZATION_BIT,
    packed,
    packed_column,
)


@dataclass(frozen=True, slots=True)
class Row:
    """All GPUs that answered, at one time."""

    time_unix_milliseconds: int
    samples: Sequence[GpuSample]
    holders: Sequence[AttemptRef]
    """Of each GPU; empty for a free one."""
    owners: Mapping[int, AttemptRef]
    """Process -> the attempt that it belongs to. A process that is not here belongs to none."""

    @property
    def shape(self) -> object:
        """What is the same in all rows of a batch."""
        return (
            [sample.uuid for sample in self.samples],
            [(holder.run_id, holder.attempt) for holder in self.holders],
            [_not_offered(sample) for sample in self.samples],
            [list(sample.values) for sample in self.samples],
        )


def batch_of(node_id: str, rows: Sequence[Row]) -> GpuSamplesRecorded:
    """Pack rows of one shape; at least one."""
    first = rows[0]
    readings = [sample for row in rows for sample in row.samples]
    not_offered = [_not_offered(sample) for sample in first.samples]
    batch = GpuSamplesRecorded(
        node_id=node_id,
        gpu_uuids=[sample.uuid for sample in first.samples],
        holders=first.holders,
        times_unix_milliseconds=[row.time_unix_milliseconds for row in rows],
        utilization_percents=[sample.utilization_percent or 0 for sample in readings],
        memory_used_bytes=[sample.memory_used_bytes or 0 for sample in readings],
        power_milliwatts=[sample.power_milliwatts or 0 for sample in readings],
        temperature_celsius=[sample.temperature_celsius or 0 for sample in readings],
        energy_millijoules=[sample.energy_millijoules or 0 for sample in readings],
        not_offered_bits=not_offered if any(not_offered) else (),
    )
    quantities = sorted({quantity for sample in first.samples for quantity in sample.values})
    batch.columns.extend(
        packed_column(quantity, [_of(row, quantity) for row in rows], len(first.samples))
        for quantity in quantities
    )
    batch.processes.extend(_process_columns(rows))
    return batch


def _of(row: Row, quantity: GpuQuantity.ValueType) -> dict[int, int]:
    return {
        index: sample.values[quantity]
        for index, sample in enumerate(row.samples)
        if quantity in sample.values
    }


def _not_offered(sample: GpuSample) -> int:
    return (
        UTILIZATION_BIT * (sample.utilization_percent is None)
        | MEMORY_BIT * (sample.memory_used_bytes is None)
        | POWER_BIT * (sample.power_milliwatts is None)
        | TEMPERATURE_BIT * (sample.temperature_celsius is None)
        | ENERGY_BIT * (sample.energy_millijoules is None)
    )


def _process_columns(rows: Sequence[Row]) -> list[GpuProcessColumn]:
    columns: list[GpuProcessColumn] = []
    open_ones: dict[tuple[int, int], GpuProcessColumn] = {}
    memory: dict[tuple[int, int], list[int]] = {}
    for place, row in enumerate(rows):
        for index, sample in enumerate(row.samples):
            for process in sample.processes:
                key = (index, process.pid)
                column = open_ones.get(key)
                if column is None or column.first_row + column.row_count != place:
                    column = open_ones[key] = _begun(row, index, process, place)
                    columns.append(column)
                    memory[key] = []
                column.row_count += 1
                memory[key].append(process.memory_bytes)
                column.memory_bytes[:] = packed(memory[key], 1)
                if process.sm_utilization_percent is not None:
                    column.sm_utilization_percents.append(process.sm_utilization_percent)
    return columns


def _begun(row: Row, index: int, process: GpuProcess, place: int) -> GpuProcessColumn:
    column = GpuProcessColumn(gpu_index=index, pid=process.pid, name=process.name, first_row=place)
    owner = row.owners.get(process.pid)
    if owner is None:
        column.owner = GpuProcessOwner.GPU_PROCESS_OWNER_FOREIGN
    elif owner == row.holders[index]:
        column.owner = GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER
    else:
        column.owner = GpuProcessOwner.GPU_PROCESS_OWNER_OTHER_ATTEMPT
        column.run_id, column.attempt = owner.run_id, owner.attempt
    return column
