"""Columns of GPU samples as they travel: first row, then differences; one row when nothing changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runyard.metric.v1.gpus_pb2 import GpuColumn, GpuQuantity

UTILIZATION_BIT, MEMORY_BIT, POWER_BIT, TEMPERATURE_BIT, ENERGY_BIT = (1 << bit for bit in range(5))


def packed(values: Sequence[int], width: int) -> list[int]:
    """Give what travels of rows of ``width`` values each, one row after the other."""
    differences = [value - before for before, value in zip(values, values[width:], strict=False)]
    return [*values[:width], *differences] if any(differences) else list(values[:width])


def unpacked(sent: Sequence[int], width: int, row_count: int) -> list[int]:
    """Give the values of ``row_count`` rows that ``packed`` was given.

    Raises:
        ValueError: neither one row nor all rows were sent.
    """
    if len(sent) == width:
        return list(sent) * row_count
    if len(sent) != width * row_count:
        raise ValueError(f"a column has {len(sent)} values, want {width} or {width * row_count}")
    values = list(sent[:width])
    for difference in sent[width:]:
        values.append(values[-width] + difference)
    return values


def packed_column(
    quantity: GpuQuantity.ValueType, rows: Sequence[Mapping[int, int]], gpu_count: int
) -> GpuColumn:
    """Pack one quantity: rows of GPU index -> value, each with the same GPUs."""
    indices = list(rows[0])
    return GpuColumn(
        quantity=quantity,
        gpu_indices=() if indices == list(range(gpu_count)) else indices,
        values=packed([row[index] for row in rows for index in indices], len(indices)),
    )


def unpacked_column(column: GpuColumn, gpu_count: int, row_count: int) -> dict[int, list[int]]:
    """Give GPU index -> its values, one a row.

    Raises:
        ValueError: a GPU that is not there, or the wrong number of values.
    """
    indices = list(column.gpu_indices) or list(range(gpu_count))
    if max(indices, default=0) >= gpu_count or len(set(indices)) != len(indices):
        raise ValueError(f"a column has GPUs {indices} of {gpu_count}")
    values = unpacked(column.values, len(indices), row_count)
    return {index: values[place :: len(indices)] for place, index in enumerate(indices)}
