"""The GPUs of an NVIDIA driver, through its management library; opened again when it went away.

All calls but the wait for errors go through one thread: a driver in trouble may hang, and NVML serialises
them anyway.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Sequence
from types import ModuleType

from runyard.node.v1.types_pb2 import GpuDevice
from runyard_agent.blocking import BlockingPool
from runyard_agent.domain.gpu_health import GpuHealth
from runyard_agent.gpus import GpuProcess, GpuSample, XidSeen
from runyard_agent.nvml_events import XidWatch
from runyard_agent.nvml_inventory import list_devices
from runyard_agent.nvml_readings import GpuReader
from runyard_core.errors import DeadlineExceeded

logger = logging.getLogger(__name__)

_CALL_SECONDS_MAX = 5.0
_OPEN_AGAIN_SECONDS = 10.0
_LOOK_FOR_MORE_SECONDS = 60.0
"""How often a driver is looked for that was never there, and GPUs that did not answer when listed."""


class NvmlGpus:
    """The GPUs of this machine. Without a driver there are none, until one is loaded."""

    def __init__(self, nvml: ModuleType) -> None:
        """Open the library with NVIDIA's own binding; why it cannot be used is a warning."""
        self._nvml = nvml
        self._pool = BlockingPool("nvml", thread_count=1)
        self.driver_version = ""
        self.cuda_version = ""
        self.warnings: Sequence[str] = ()
        self._devices: list[GpuDevice] = []
        self._health: dict[str, GpuHealth] = {}
        self._readers: dict[str, GpuReader] = {}
        self._xids: XidWatch | None = None
        self._taken: queue.SimpleQueue[XidSeen] = queue.SimpleQueue()
        self._opened_at_seconds = 0.0
        self._is_complete = False
        self._open()

    async def devices(self) -> Sequence[GpuDevice]:
        """List the GPUs by index, with why one cannot be used now."""
        return [self._with_health(device) for device in self._devices]

    async def sample(self) -> Sequence[GpuSample | None]:
        """Read all GPUs; None for one that does not answer."""
        if not self._devices and not self._is_due(_LOOK_FOR_MORE_SECONDS):
            return ()
        try:
            return await self._pool.run(_CALL_SECONDS_MAX, self._read_all)
        except DeadlineExceeded as error:
            for device in self._devices:
                health = self._health.get(device.uuid, GpuHealth())
                self._health[device.uuid] = health.after_silence(error.message)
            raise

    async def processes(self) -> Sequence[GpuProcess]:
        """List the processes that hold GPU memory, of GPUs that answer."""
        return await self._pool.run(_CALL_SECONDS_MAX, self._all_processes)

    def take_xids(self) -> Sequence[XidSeen]:
        """Give the errors that the driver reported since the last time, in order."""
        seen: list[XidSeen] = []
        with contextlib.suppress(queue.Empty):
            while True:
                seen.append(self._taken.get_nowait())
        return seen

    def close(self) -> None:
        """Shut the library down."""
        self._pool.close()
        self._close()

    # In the library's thread.

    def _open(self) -> None:
        nvml = self._nvml
        self._opened_at_seconds = time.monotonic()
        warnings: list[str] = []
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self._cannot_open(error)
            return
        try:
            self.driver_version = str(nvml.nvmlSystemGetDriverVersion())
            cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
            self.cuda_version = f"{cuda // 1000}.{cuda % 1000 // 10}"
            found = {device.uuid: device for device in list_devices(nvml, warnings)}
        except nvml.NVMLError as error:
            self._cannot_open(error)
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
            return
        # One that is lost now stays as it was seen last: whoever holds it still does.
        lost = [device for device in self._devices if device.uuid not in found]
        self._devices = sorted([*found.values(), *lost], key=lambda device: device.index)
        # Whatever a card refused, another driver may offer.
        self._readers = {device.uuid: GpuReader(nvml, device.uuid) for device in self._devices}
        self._xids = XidWatch(nvml, list(found))
        self.warnings = tuple(warnings)
        self._is_complete = len(found) == nvml.nvmlDeviceGetCount()

    def _cannot_open(self, error: Exception) -> None:
        sentence = f"No GPU can be used here: NVML says {error}."
        if sentence not in self.warnings:
            logger.info(sentence)
        self.warnings = (sentence,)
        self._readers = {}

    def _close(self) -> None:
        self._readers = {}
        if self._xids is not None:
            self._stop_waiting(self._xids)
            self._xids = None
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _stop_waiting(self, xids: XidWatch) -> None:
        xids.close()
        self._hear(xids)

    def _hear(self, xids: XidWatch) -> None:
        for each in xids.take():
            self._health[each.gpu_uuid] = self._health.get(each.gpu_uuid, GpuHealth()).after_xid(each.xid)
            self._taken.put(each)

    def _open_again(self, every_seconds: float) -> None:
        if self._is_due(every_seconds):
            self._close()
            self._open()

    def _is_due(self, seconds: float) -> bool:
        return time.monotonic() - self._opened_at_seconds >= seconds

    def _read_all(self) -> list[GpuSample | None]:
        if self._xids is None:
            self._open_again(_OPEN_AGAIN_SECONDS if self._devices else _LOOK_FOR_MORE_SECONDS)
        elif not self._is_complete:
            self._open_again(_LOOK_FOR_MORE_SECONDS)
        were_lost = self._lost()
        samples = [self._read(device.uuid) for device in self._devices]
        if samples and all(sample is None for sample in samples):
            # One lost GPU is lost alone; when all are, the driver itself may be another one by now.
            self._open_again(_OPEN_AGAIN_SECONDS)
        elif self._xids is not None and were_lost - self._lost():
            # What was registered for its errors did not outlive its reset.
            self._stop_waiting(self._xids)
            self._xids = XidWatch(self._nvml, [each.uuid for each in samples if each is not None])
        if self._xids is not None:
            self._hear(self._xids)
        return samples

    def _lost(self) -> set[str]:
        return {uuid for uuid, health in self._health.items() if health.is_lost}

    def _read(self, uuid: str) -> GpuSample | None:
        health = self._health.get(uuid, GpuHealth())
        reader = self._readers.get(uuid)
        try:
            look = None if reader is None else reader.read()
        except self._nvml.NVMLError as error:
            self._health[uuid] = health.after_silence(str(error))
            return None
        if look is None:
            self._health[uuid] = health.after_silence("the driver is not loaded")
            return None
        self._health[uuid] = health.after_answer(look.recovery_action)
        return look.sample

    def _all_processes(self) -> list[GpuProcess]:
        found: list[GpuProcess] = []
        for reader in self._readers.values():
            with contextlib.suppress(self._nvml.NVMLError):
                found.extend(reader.processes())
        return found

    def _with_health(self, device: GpuDevice) -> GpuDevice:
        reason = self._health.get(device.uuid, GpuHealth()).unusable_reason
        if not reason:
            return device
        shown = GpuDevice()
        shown.CopyFrom(device)
        shown.unusable_reason = reason
        return shown
