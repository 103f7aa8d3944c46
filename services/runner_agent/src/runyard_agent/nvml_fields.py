"""The numbers of a GPU that NVML gives by field id, many in one call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from runyard.metric.v1.gpus_pb2 import GpuQuantity

# Field ids of nvml.h, stable for ever; older bindings lack the names of the newer ones.
ENERGY, RECOVERY_ACTION = 83, 230
_COUNTS: Mapping[int, GpuQuantity.ValueType] = {
    3: GpuQuantity.GPU_QUANTITY_ECC_CORRECTED_ERRORS,
    4: GpuQuantity.GPU_QUANTITY_ECC_UNCORRECTED_ERRORS,
    94: GpuQuantity.GPU_QUANTITY_PCIE_REPLAYS,
    82: GpuQuantity.GPU_QUANTITY_MEMORY_TEMPERATURE_CELSIUS,
}
_RATES: Mapping[int, tuple[GpuQuantity.ValueType, float]] = {
    138: (GpuQuantity.GPU_QUANTITY_NVLINK_SENT_KILOBYTES_PER_SECOND, 1.024),
    139: (GpuQuantity.GPU_QUANTITY_NVLINK_RECEIVED_KILOBYTES_PER_SECOND, 1.024),
    197: (GpuQuantity.GPU_QUANTITY_PCIE_SENT_KILOBYTES_PER_SECOND, 0.001),
    198: (GpuQuantity.GPU_QUANTITY_PCIE_RECEIVED_KILOBYTES_PER_SECOND, 0.001),
}
"""Counters that are shown as rates, and kilobytes in one count."""
_PCIE_COUNTERS = (197, 198)
_ALL_LINKS = 0xFFFFFFFF
_SCOPES = {138: _ALL_LINKS, 139: _ALL_LINKS}
_NVLINK_COUNT = 91
_NVLINK_ERRORS, _NVLINK_ERRORS_OF_LINK = (38, 52, 59), (161, 162, 163)
"""CRC errors, replays and recoveries: of all links (before Hopper), and of each (since)."""
_NEVER = frozenset({2, 3, 13})
"""What NVML says of a field that it will never have: invalid argument, not supported, function not found."""
_DOUBLE, _UNSIGNED, _SIGNED_LONG, _SIGNED = 0, 1, 4, 5


class FieldReader:
    """Reads the fields of one GPU; one that the card refuses is asked for once."""

    def __init__(self, nvml: ModuleType) -> None:
        """Read with an initialised ``pynvml`` module."""
        self._nvml = nvml
        self._asked = [*_COUNTS, *_RATES, ENERGY, RECOVERY_ACTION]
        self._counters: dict[int, tuple[float, int]] = {}
        self._read_at_seconds = 0.0

    @property
    def has_pcie_counters(self) -> bool:
        """False when the card has no counters of what goes over its bus."""
        return any(field_id in self._asked for field_id in _PCIE_COUNTERS)

    def read(self, handle: Any) -> dict[int, int]:
        """Give field id -> number, of what the card offers.

        Raises:
            pynvml.NVMLError: it does not answer.
        """
        if not self._asked:
            return {}
        nvml = self._nvml
        asked = [(field_id, _SCOPES.get(field_id, 0)) for field_id in self._asked]
        answers = nvml.nvmlDeviceGetFieldValues(handle, asked)
        self._read_at_seconds = time.monotonic()
        refused = {answer.fieldId for answer in answers if answer.nvmlReturn in _NEVER}
        if refused:
            self._asked = [field_id for field_id in self._asked if field_id not in refused]
        return {
            answer.fieldId: _value(answer) for answer in answers if answer.nvmlReturn == nvml.NVML_SUCCESS
        }

    def quantities(self, fields: Mapping[int, int]) -> Iterator[tuple[GpuQuantity.ValueType, int]]:
        """Give what was just read as quantities; a counter becomes a rate at its second reading."""
        for field_id, quantity in _COUNTS.items():
            if field_id in fields:
                yield quantity, fields[field_id]
        now_seconds = self._read_at_seconds
        for field_id, (quantity, kilobytes) in _RATES.items():
            if field_id not in fields:
                continue
            before = self._counters.get(field_id)
            self._counters[field_id] = (now_seconds, fields[field_id])
            # A counter that fell has wrapped or was set back: nobody knows its rate this time.
            if before is not None and fields[field_id] >= before[1] and now_seconds > before[0]:
                count = fields[field_id] - before[1]
                yield quantity, round(count * kilobytes / (now_seconds - before[0]))

    def nvlink_errors(self, handle: Any) -> int:
        """Count the errors of all links since the driver was loaded.

        Raises:
            pynvml.NVMLError: it does not answer, or has no links.
        """
        nvml = self._nvml
        (links,) = nvml.nvmlDeviceGetFieldValues(handle, [(_NVLINK_COUNT, 0)])
        link_count = _value(links) if links.nvmlReturn == nvml.NVML_SUCCESS else 0
        asked = [(field_id, 0) for field_id in _NVLINK_ERRORS]
        asked += [(field_id, link) for link in range(link_count) for field_id in _NVLINK_ERRORS_OF_LINK]
        answers = nvml.nvmlDeviceGetFieldValues(handle, asked)
        errors = [_value(answer) for answer in answers if answer.nvmlReturn == nvml.NVML_SUCCESS]
        if not errors:
            raise nvml.NVMLError_NotSupported
        return sum(errors)


def _value(answer: Any) -> int:
    value, kind = answer.value, answer.valueType
    if kind == _DOUBLE:
        return int(value.dVal)
    if kind == _UNSIGNED:
        return int(value.uiVal)
    if kind == _SIGNED_LONG:
        return int(value.sllVal)
    return int(value.siVal if kind == _SIGNED else value.ullVal)
