"""What the agent asks of the GPUs of its node: inventory, samples, processes that hold memory, errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from runyard.metric.v1.gpus_pb2 import GpuQuantity
from runyard.node.v1.types_pb2 import GpuDevice


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
    sm_utilization_percent: int | None = None
    """Share of the GPU's time; None when the card does not offer it."""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One reading of one GPU. None is what the card does not offer."""

    uuid: str
    utilization_percent: int | None
    memory_used_bytes: int | None
    power_milliwatts: int | None
    temperature_celsius: int | None
    energy_millijoules: int | None
    """Counter since the driver was loaded."""
    values: Mapping[GpuQuantity.ValueType, int] = field(default_factory=dict)
    """Everything else that it offers."""
    processes: Sequence[GpuProcess] = ()


@dataclass(frozen=True, slots=True)
class XidSeen:
    """An error that the driver reported."""

    gpu_uuid: str
    xid: int


class Gpus(Protocol):
    """What the agent asks of the GPUs of its node."""

    @property
    def driver_version(self) -> str:
        """Empty without a driver."""
        ...

    @property
    def cuda_version(self) -> str:
        """Highest CUDA version that the driver serves: "12.8"; empty without a driver."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What cannot be done here, one sentence each."""
        ...

    async def devices(self) -> Sequence[GpuDevice]:
        """List the GPUs by index, with why one cannot be used now. A lost one stays as it was seen last."""
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

    def take_xids(self) -> Sequence[XidSeen]:
        """Give the errors that the driver reported since the last time, in order."""
        ...

    def close(self) -> None:
        """Let go of the driver."""
        ...


def open_gpus() -> Gpus:
    """Open the driver's library; ``warnings`` says why when there is none, and it is tried again later."""
    import pynvml

    from runyard_agent.nvml_gpus import NvmlGpus

    return NvmlGpus(pynvml)
