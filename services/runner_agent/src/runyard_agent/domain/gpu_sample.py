"""What one look at a GPU gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runyard.metric.v1.gpus_pb2 import GpuQuantity


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
