"""What the agent asks of the GPUs of its node: inventory, samples, processes that hold memory, errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runyard.node.v1.types_pb2 import GpuDevice
from runyard_agent.domain.gpu_sample import GpuProcess, GpuSample, XidSeen

__all__ = ["GpuProcess", "GpuSample", "Gpus", "XidSeen", "open_gpus"]


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
