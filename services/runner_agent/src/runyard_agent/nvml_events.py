"""A thread that waits for what the driver reports by itself: XIDs, errors of GPUs and of programs."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from runyard_agent.gpus import XidSeen

logger = logging.getLogger(__name__)

_WAIT_MILLISECONDS = 500
"""How long the driver is waited for at once, and so how long ending the thread may take."""
_PAUSE_SECONDS = 5.0


class XidWatch:
    """Waits for errors until it is closed. A card that reports none is left out."""

    def __init__(self, nvml: ModuleType, uuids: Sequence[str]) -> None:
        """Register these GPUs and start to wait; without one that offers it there is no thread."""
        self._nvml = nvml
        self._seen: queue.SimpleQueue[XidSeen] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            self._set: Any = nvml.nvmlEventSetCreate()
        except nvml.NVMLError as error:
            logger.info("errors of GPUs are not reported here: %s", error)
            return
        watched = {uuid: handle for uuid in uuids if (handle := self._registered(uuid)) is not None}
        if watched:
            self._thread = threading.Thread(
                target=self._wait, args=(watched,), name="nvml-events", daemon=True
            )
            self._thread.start()

    def take(self) -> list[XidSeen]:
        """Give what was reported since the last time, in order."""
        taken: list[XidSeen] = []
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._seen.get_nowait())
        return taken

    def close(self) -> None:
        """Stop to wait; takes half a second at most. The library must stay open until then."""
        self._stopping.set()
        if self._thread is None:
            return
        self._thread.join(timeout=4 * _WAIT_MILLISECONDS / 1000)
        if not self._thread.is_alive():
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlEventSetFree(self._set)

    def _registered(self, uuid: str) -> Any:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            if nvml.nvmlDeviceGetSupportedEventTypes(handle) & nvml.nvmlEventTypeXidCriticalError:
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._set)
                return handle
        except nvml.NVMLError as error:
            logger.info("errors of %s are not reported here: %s", uuid, error)
        return None

    def _wait(self, watched: Mapping[str, Any]) -> None:
        nvml = self._nvml
        uuids = {_address(handle): uuid for uuid, handle in watched.items()}
        while not self._stopping.is_set():
            try:
                event = nvml.nvmlEventSetWait_v2(self._set, _WAIT_MILLISECONDS)
            except nvml.NVMLError_Timeout:
                continue
            except nvml.NVMLError as error:
                # A lost GPU or driver: the next sample says so, and opening the driver again starts anew.
                logger.debug("errors of GPUs cannot be waited for: %s", error)
                self._stopping.wait(_PAUSE_SECONDS)
                continue
            uuid = uuids.get(_address(event.device))
            if uuid is not None and event.eventType == nvml.nvmlEventTypeXidCriticalError:
                self._seen.put(XidSeen(uuid, int(event.eventData)))


def _address(handle: Any) -> int:
    """Give what tells a handle from others: it is a pointer, new Python objects may hold the same one."""
    import ctypes

    return ctypes.cast(handle, ctypes.c_void_p).value or 0
