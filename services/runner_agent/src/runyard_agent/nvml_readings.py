"""Everything that one GPU offers, read once a second through NVML.

A reading that the card refuses is asked for once and remembered; one that fails for another reason is left
out this time. Numbers that the driver has at hand come in one call (field values); only what has no field
costs a call of its own. Each look takes its handle anew by UUID (28 us): none outlives a reset of its GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from runyard.metric.v1.gpus_pb2 import GpuQuantity
from runyard_agent.gpus import GpuProcess, GpuSample
from runyard_agent.nvml_fields import ENERGY, RECOVERY_ACTION, FieldReader

_SLOW_READS = 10
"""What the links are and which errors they had is read at every tenth look."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a GPU gave."""

    sample: GpuSample
    recovery_action: int | None
    """What the driver wants done before the GPU is used again: 0 nothing; None when it cannot say."""


class GpuReader:
    """Reads one GPU, again and again."""

    def __init__(self, nvml: ModuleType, uuid: str) -> None:
        """Read the GPU of this UUID with an initialised ``pynvml`` module."""
        self._nvml = nvml
        self._uuid = uuid
        self._refused: set[str] = set()
        self._fields = FieldReader(nvml)
        self._links: dict[GpuQuantity.ValueType, int] = {}
        self._names: dict[int, str] = {}
        self._look_count = 0
        self._not_offered = (
            nvml.NVMLError_NotSupported,
            nvml.NVMLError_FunctionNotFound,
            nvml.NVMLError_NoPermission,
        )
        self._gone = (
            nvml.NVMLError_GpuIsLost,
            nvml.NVMLError_Uninitialized,
            nvml.NVMLError_DriverNotLoaded,
            nvml.NVMLError_LibRmVersionMismatch,
        )

    def read(self) -> Look:
        """Look at the GPU.

        Raises:
            pynvml.NVMLError: it does not answer.
        """
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
        fields: dict[int, int] = self._offered("fields", lambda: self._fields.read(handle)) or {}
        usage = self._offered("utilization", lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        values = dict(self._values(handle, fields))
        if usage is not None:
            values[GpuQuantity.GPU_QUANTITY_MEMORY_UTILIZATION_PERCENT] = int(usage.memory)
        sample = GpuSample(
            uuid=self._uuid,
            utilization_percent=None if usage is None else int(usage.gpu),
            memory_used_bytes=self._number("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            power_milliwatts=self._number("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle)),
            temperature_celsius=self._temperature(handle),
            energy_millijoules=fields.get(ENERGY),
            values=values,
            processes=tuple(self.processes(handle)),
        )
        self._look_count += 1
        return Look(sample, fields.get(RECOVERY_ACTION))

    def processes(self, handle: Any = None) -> Iterator[GpuProcess]:
        """List the processes that hold memory of the GPU.

        Raises:
            pynvml.NVMLError: it does not answer.
        """
        nvml = self._nvml
        if handle is None:
            handle = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
        running = self._offered("processes", lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ()
        percents = self._sm_percents(handle) if running else None
        names = self._names
        self._names = {each.pid: names.get(each.pid) or _command_of(each.pid) for each in running}
        for each in running:
            percent = None if percents is None else percents.get(each.pid, 0)
            memory_bytes = each.usedGpuMemory or 0
            yield GpuProcess(self._uuid, each.pid, memory_bytes, self._names[each.pid], percent)

    def _values(self, handle: Any, fields: Mapping[int, int]) -> Iterator[tuple[GpuQuantity.ValueType, int]]:
        nvml = self._nvml
        for name, quantity, kind in (
            ("SM clock", GpuQuantity.GPU_QUANTITY_SM_CLOCK_MEGAHERTZ, nvml.NVML_CLOCK_SM),
            ("memory clock", GpuQuantity.GPU_QUANTITY_MEMORY_CLOCK_MEGAHERTZ, nvml.NVML_CLOCK_MEM),
        ):
            clock = self._number(name, partial(nvml.nvmlDeviceGetClockInfo, handle, kind))
            if clock is not None:
                yield quantity, clock
        reasons = self._throttle_reasons(handle)
        if reasons is not None:
            yield GpuQuantity.GPU_QUANTITY_THROTTLE_REASONS, reasons
        yield from self._fields.quantities(fields)
        if "fields" in self._refused or not self._fields.has_pcie_counters:
            yield from self._pcie_throughput(handle)
        yield from self._link_state(handle)

    def _pcie_throughput(self, handle: Any) -> Iterator[tuple[GpuQuantity.ValueType, int]]:
        """Ask cards without counters: each of these calls watches the bus for 20 ms."""
        nvml = self._nvml
        for name, quantity, direction in (
            (
                "PCIe out",
                GpuQuantity.GPU_QUANTITY_PCIE_SENT_KILOBYTES_PER_SECOND,
                nvml.NVML_PCIE_UTIL_TX_BYTES,
            ),
            (
                "PCIe in",
                GpuQuantity.GPU_QUANTITY_PCIE_RECEIVED_KILOBYTES_PER_SECOND,
                nvml.NVML_PCIE_UTIL_RX_BYTES,
            ),
        ):
            rate = self._number(name, partial(nvml.nvmlDeviceGetPcieThroughput, handle, direction))
            if rate is not None:
                yield quantity, rate

    def _link_state(self, handle: Any) -> Iterator[tuple[GpuQuantity.ValueType, int]]:
        nvml = self._nvml
        if self._look_count % _SLOW_READS == 0:
            generation = self._number(
                "link generation", lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)
            )
            width = self._number("link width", lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))
            read = {
                GpuQuantity.GPU_QUANTITY_PCIE_LINK_GENERATION: generation,
                GpuQuantity.GPU_QUANTITY_PCIE_LINK_WIDTH: width,
                GpuQuantity.GPU_QUANTITY_NVLINK_ERRORS: self._offered(
                    "NVLink errors", lambda: self._fields.nvlink_errors(handle)
                ),
            }
            self._links = {quantity: value for quantity, value in read.items() if value is not None}
        yield from self._links.items()

    def _throttle_reasons(self, handle: Any) -> int | None:
        nvml = self._nvml
        reasons = self._number(
            "clocks event reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        )
        if reasons is None and "clocks event reasons" in self._refused:
            # The name that drivers before 535 know.
            return self._number(
                "throttle reasons", lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            )
        return reasons

    def _temperature(self, handle: Any) -> int | None:
        nvml = self._nvml
        found = self._number(
            "temperature", lambda: nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU)
        )
        if found is None and "temperature" in self._refused:
            # Drivers before 565 know only the older call, which later ones will drop.
            return self._number(
                "older temperature", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            )
        return found

    def _sm_percents(self, handle: Any) -> dict[int, int] | None:
        """Give the newest share of time of each process; None when the card does not tell."""
        nvml = self._nvml
        if "process utilization" in self._refused:
            return None
        since_microseconds = round((time.time() - 2.0) * 1e6)
        try:
            samples = self._offered(
                "process utilization",
                lambda: nvml.nvmlDeviceGetProcessUtilization(handle, since_microseconds),
            )
        except nvml.NVMLError_NotFound:
            return {}
        return None if samples is None else {each.pid: each.smUtil for each in samples}

    def _number(self, name: str, read: Callable[[], Any]) -> int | None:
        found = self._offered(name, read)
        return None if found is None else int(found)

    def _offered(self, name: str, read: Callable[[], Any]) -> Any:
        """Give what is read; None when the card does not offer it, or cannot say just now."""
        if name in self._refused:
            return None
        try:
            return read()
        except self._not_offered:
            self._refused.add(name)
            return None
        except (*self._gone, self._nvml.NVMLError_NotFound):
            raise
        except self._nvml.NVMLError:
            return None


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
