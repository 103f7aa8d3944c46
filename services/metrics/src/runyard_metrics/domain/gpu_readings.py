"""What a batch of GPU samples says of each GPU: name of a quantity -> its values, one a row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

from runyard.metric.v1.batches_pb2 import GpuSamplesRecorded
from runyard.metric.v1.gpus_pb2 import GpuColumn, GpuProcessColumn, GpuQuantity
from runyard_contracts.gpu_columns import packed_column, unpacked, unpacked_column

Readings = Mapping[str, Sequence[int]]

BASE_NAMES = (
    "gpu_utilization_percent",
    "gpu_memory_used_bytes",
    "gpu_power_milliwatts",
    "gpu_temperature_celsius",
    "gpu_energy_millijoules",
)
"""Quantities that have a field of their own; the place of each is its bit in ``not_offered_bits``."""
_BASE_FIELDS = (
    "utilization_percents",
    "memory_used_bytes",
    "power_milliwatts",
    "temperature_celsius",
    "energy_millijoules",
)
THROTTLE_REASONS = "gpu_throttle_reasons"
PROCESS_MEMORY = "gpu_process_memory_bytes"
PROCESS_SM = "gpu_process_sm_utilization_percent"


def readings_of(samples: GpuSamplesRecorded, names: Collection[str] = ()) -> list[Readings]:
    """Give the readings of each GPU of a batch; what a card does not offer is not there.

    Args:
        samples: the batch.
        names: of the quantities wanted; all when none is named.

    Raises:
        ValueError: columns that do not fit together.
    """
    gpu_count, row_count = len(samples.gpu_uuids), len(samples.times_unix_milliseconds)
    _check_length("holders", samples.holders, gpu_count)
    if samples.not_offered_bits:
        _check_length("not_offered_bits", samples.not_offered_bits, gpu_count)
    readings: list[dict[str, Sequence[int]]] = [{} for _ in range(gpu_count)]
    for bit, (name, field) in enumerate(zip(BASE_NAMES, _BASE_FIELDS, strict=True)):
        column = getattr(samples, field)
        _check_length(name, column, gpu_count * row_count)
        for index in range(gpu_count if _is_wanted(name, names) else 0):
            if not is_missing(samples, index, bit):
                readings[index][name] = column[index::gpu_count]
    for each in samples.columns:
        name = quantity_name(each.quantity)
        if _is_wanted(name, names):
            for index, values in unpacked_column(each, gpu_count, row_count).items():
                readings[index][name] = values
    for process in samples.processes:
        process_values(process, gpu_count, row_count)
    return list(readings)


def is_missing(samples: GpuSamplesRecorded, gpu_index: int, bit: int) -> bool:
    """Say whether a GPU does not offer the quantity that has this place in ``BASE_NAMES``."""
    if samples.not_offered_bits:
        return bool(samples.not_offered_bits[gpu_index] >> bit & 1)
    # Agents that knew no bits wrote an energy of 0 for a card that has no such counter.
    energy = BASE_NAMES.index("gpu_energy_millijoules")
    return bit == energy and not any(samples.energy_millijoules[gpu_index :: len(samples.gpu_uuids)])


@lru_cache(maxsize=256)
def quantity_name(quantity: GpuQuantity.ValueType) -> str:
    """Name a quantity as statistics and series do; one of a later version by its number."""
    if quantity not in GpuQuantity.values():
        return f"gpu_quantity_{quantity}"
    return "gpu_" + GpuQuantity.Name(quantity).removeprefix("GPU_QUANTITY_").lower()


def process_values(process: GpuProcessColumn, gpu_count: int, row_count: int) -> list[int]:
    """Give the memory of a process, one value a row in which it was seen.

    Raises:
        ValueError: columns that do not fit together.
    """
    if process.gpu_index >= gpu_count or process.first_row + process.row_count > row_count:
        raise ValueError(f"process {process.pid} is not within its batch")
    if process.sm_utilization_percents:
        _check_length("sm_utilization_percents", process.sm_utilization_percents, process.row_count)
    return unpacked(process.memory_bytes, 1, process.row_count)


def samples_of_gpus(samples: GpuSamplesRecorded, indices: Sequence[int]) -> GpuSamplesRecorded:
    """Give what a batch says of some of its GPUs, as a batch."""
    gpu_count = len(samples.gpu_uuids)
    if list(indices) == list(range(gpu_count)):
        chosen = GpuSamplesRecorded()
        chosen.CopyFrom(samples)
        return chosen
    places = {index: place for place, index in enumerate(indices)}
    chosen = GpuSamplesRecorded(
        gpu_uuids=[samples.gpu_uuids[index] for index in indices],
        holders=[samples.holders[index] for index in indices],
        times_unix_milliseconds=samples.times_unix_milliseconds,
        not_offered_bits=[samples.not_offered_bits[index] for index in indices]
        if samples.not_offered_bits
        else (),
    )
    for name in _BASE_FIELDS:
        source, rows = getattr(samples, name), range(len(samples.times_unix_milliseconds))
        getattr(chosen, name).extend(source[row * gpu_count + index] for row in rows for index in indices)
    chosen.columns.extend(_columns_of_gpus(samples, places))
    for process in samples.processes:
        if process.gpu_index in places:
            copy = chosen.processes.add()
            copy.CopyFrom(process)
            copy.gpu_index = places[process.gpu_index]
    return chosen


def _columns_of_gpus(samples: GpuSamplesRecorded, places: Mapping[int, int]) -> Iterator[GpuColumn]:
    gpu_count, row_count = len(samples.gpu_uuids), len(samples.times_unix_milliseconds)
    for column in samples.columns:
        by_gpu = unpacked_column(column, gpu_count, row_count)
        kept = {place: by_gpu[index] for index, place in places.items() if index in by_gpu}
        if kept:
            rows = [{place: values[row] for place, values in kept.items()} for row in range(row_count)]
            yield packed_column(column.quantity, rows, len(places))


def _is_wanted(name: str, names: Collection[str]) -> bool:
    return not names or name in names


def _check_length(name: str, column: Sequence[object], wanted: int) -> None:
    if len(column) != wanted:
        raise ValueError(f"{name} has {len(column)} values, want {wanted}")
