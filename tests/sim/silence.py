"""What stands for parts of the agent that have tests of their own: sampling and telemetry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

from runyard.node.v1.types_pb2 import GpuDevice, NodeInventory
from runyard.run.v1.types_pb2 import TelemetryMark
from runyard_agent.domain.gpu_evidence import NO_GPU_EVIDENCE, GpuEvidence
from runyard_agent.domain.redaction import Redaction
from runyard_agent.gpus import GpuProcess


class NoReadings:
    """Stands for the sampling of a machine whose GPUs nobody reads: they neither fail nor are full."""

    driver_version = cuda_version = ""

    def __init__(self, inventory: NodeInventory) -> None:
        self._inventory = inventory
        self.gpus = SimpleNamespace(gpus=self, foreign_pids=tuple)

    def watch(self, *_: object, **__: object) -> None:
        pass

    def unwatch(self, _: object) -> None:
        pass

    async def gpu_evidence(self, _: object) -> GpuEvidence:
        return NO_GPU_EVIDENCE

    async def devices(self) -> Sequence[GpuDevice]:
        return self._inventory.gpus

    async def processes(self) -> Sequence[GpuProcess]:
        return ()


class Silence:
    """Stands for telemetry, which has tests of its own."""

    redaction = Redaction()

    def __init__(self, *_: object) -> None:
        pass

    def write_status(self, sentence: str) -> None:
        pass

    async def sync(self) -> None:
        await asyncio.sleep(0.01)

    def telemetry_mark(self) -> TelemetryMark:
        return TelemetryMark(node_id="node", spool_id="spool", last_sequence=7)

    def forget(self) -> None:
        pass

    async def follow(self, ended: asyncio.Event) -> None:
        await ended.wait()
