"""The node's GPUs as its driver shows them (NVML): inventory, samples and the processes that hold memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from runyard.node.v1.types_pb2 import GpuDevice
from runyard_agent.blocking import BlockingPool

_CALL_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One reading of one GPU. What the device does not offer is 0."""

    uuid: str
    utilization_percent: int
    memory_used_bytes: int
    power_milliwatts: int
    temperature_celsius: int
    energy_millijoules: int
    """Counter since the driver was loaded."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    gpu_uuid: str
    pid: int
    """In the pid namespace of the agent."""
    memory_bytes: int
    """0 when the driver does not say (inside some virtual machines)."""
    name: str
    """Command of the process; empty when it is gone or hidden."""


class Gpus(Protocol):
    """What the agent asks of the GPUs of its node."""

    driver_version: str
    """Empty without a driver."""
    cuda_version: str
    """Highest CUDA version that the driver serves: "12.8"; empty without a driver."""
    warnings: tuple[str, ...]
    """What cannot be done here, one sentence each."""

    async def devices(self) -> Sequence[GpuDevice]:
        """List the GPUs by index. A GPU that does not answer is still listed as it was seen first."""
        ...

    async def sample(self) -> Sequence[GpuSample | None]:
        """Read all GPUs, in the order of ``devices``; None for one that does not answer (a lost GPU).

        Raises:
            DeadlineExceeded: the driver hangs.
        """
        ...

    async def processes(self) -> Sequence[GpuProcess]:
        """List the processes that hold GPU memory.

        Raises:
            DeadlineExceeded: the driver hangs.
        """
        ...

    def close(self) -> None:
        """Let go of the driver."""
        ...


def open_gpus() -> Gpus:
    """Open the driver's library; a machine without one has no GPUs, and ``warnings`` says why."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return NvmlGpus(pynvml)
    except pynvml.NVMLError as error:
        return NoGpus(f"No GPU can be used here: NVML says {error}.")


class NoGpus:
    """A machine without an NVIDIA driver."""

    def __init__(self, reason: str) -> None:
        """Keep the sentence that says why."""
        self.driver_version = ""
        self.cuda_version = ""
        self.warnings: tuple[str, ...] = (reason,)

    async def devices(self) -> Sequence[GpuDevice]:
        """List nothing."""
        return ()

    async def sample(self) -> Sequence[GpuSample | None]:
        """Read nothing."""
        return ()

    async def processes(self) -> Sequence[GpuProcess]:
        """List nothing."""
        return ()

    def close(self) -> None:
        """Do nothing."""


class NvmlGpus:
    """The GPUs of an NVIDIA driver, through its management library.

    All calls go through one thread: a driver in trouble may hang, and NVML serialises them anyway. Each
    reading takes its handle anew by UUID (28 us), because a handle does not outlive a reset of its GPU.
    """

    def __init__(self, nvml: ModuleType) -> None:
        """Read the inventory with an initialised ``pynvml`` module.

        Raises:
            pynvml.NVMLError: the library does not even count its devices.
        """
        self._nvml = nvml
        self._pool = BlockingPool("nvml", thread_count=1)
        self.driver_version = str(nvml.nvmlSystemGetDriverVersion())
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        self.cuda_version = f"{cuda // 1000}.{cuda % 1000 // 10}"
        warnings: list[str] = []
        self._devices: list[GpuDevice] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                self._devices.append(self._device(index))
            except nvml.NVMLError as error:
                warnings.append(f"GPU {index} cannot be used: NVML says {error}.")
        self.warnings: tuple[str, ...] = tuple(warnings)

    async def devices(self) -> Sequence[GpuDevice]:
        """List the GPUs that answered when the agent started."""
        return tuple(self._devices)

    async def sample(self) -> Sequence[GpuSample | None]:
        """Read all GPUs; None for one that does not answer."""
        return await self._pool.run(_CALL_SECONDS_MAX, self._read_all)

    async def processes(self) -> Sequence[GpuProcess]:
        """List the processes that hold GPU memory, of GPUs that answer."""
        return await self._pool.run(_CALL_SECONDS_MAX, self._all_processes)

    def close(self) -> None:
        """Shut the library down."""
        self._pool.close()
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _device(self, index: int) -> GpuDevice:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        return GpuDevice(
            uuid=str(self._nvml.nvmlDeviceGetUUID(handle)),
            index=index,
            model=str(self._nvml.nvmlDeviceGetName(handle)),
            memory_bytes=int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total),
        )

    def _read_all(self) -> list[GpuSample | None]:
        return [self._read(device.uuid) for device in self._devices]

    def _read(self, uuid: str) -> GpuSample | None:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            return GpuSample(
                uuid=uuid,
                utilization_percent=self._offered(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
                memory_used_bytes=self._offered(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
                power_milliwatts=self._offered(lambda: nvml.nvmlDeviceGetPowerUsage(handle)),
                temperature_celsius=self._temperature(handle),
                energy_millijoules=self._offered(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
            )
        except nvml.NVMLError:
            return None

    def _temperature(self, handle: Any) -> int:
        nvml = self._nvml
        try:
            return int(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))
        except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NotSupported):
            # Drivers before 565 know only the older call, which later ones will drop.
            return self._offered(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))

    def _offered(self, read: Callable[[], int]) -> int:
        try:
            return int(read())
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound):
            return 0

    def _all_processes(self) -> list[GpuProcess]:
        found: list[GpuProcess] = []
        for device in self._devices:
            with contextlib.suppress(self._nvml.NVMLError):
                found.extend(self._processes_of(device.uuid))
        return found

    def _processes_of(self, uuid: str) -> list[GpuProcess]:
        handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        return [
            GpuProcess(uuid, process.pid, process.usedGpuMemory or 0, _command_of(process.pid))
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        ]


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
