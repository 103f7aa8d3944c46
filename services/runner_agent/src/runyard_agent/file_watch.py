"""Says when files of a folder are written, so that nobody has to look all the time (inotify).

What it says is only a reason to look: where the kernel gives no watch, looking every now and then is enough.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

LOOK_SECONDS = 0.5
"""Longest wait where writes are heard."""
LOOK_SECONDS_DEAF = 0.1
"""Longest wait where they are not."""

_IN_MODIFY = 0x2
_IN_CREATE = 0x100
_READ_BYTES = 64 * 1024

_logger = logging.getLogger(__name__)


class FileWatch:
    """Watches some folders from its start on. Waiting costs nothing while nothing is written."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Begin to listen; the folders must exist."""
        self._descriptor = _watch_of(folders)

    async def wait(self, ended: asyncio.Future[Literal[True]]) -> None:
        """Wait until something was written since the last call, the future is done, or it is time to look."""
        if self._descriptor < 0:
            await asyncio.wait((ended,), timeout=LOOK_SECONDS_DEAF)
            return
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        # Only while we wait: a program that writes a thousand times a second wakes us once.
        loop.add_reader(self._descriptor, _settle, written)
        try:
            await asyncio.wait((ended, written), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(self._descriptor)
        _drain(self._descriptor)

    def close(self) -> None:
        """Listen no more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _watch_of(folders: Iterable[Path]) -> int:
    """Open a watch; -1 when the kernel gives none (a limit of the user's, most likely)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    for folder in folders:
        if descriptor >= 0 and (
            libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_MODIFY | _IN_CREATE) < 0
        ):
            os.close(descriptor)
            descriptor = -1
    if descriptor < 0:
        reason = os.strerror(ctypes.get_errno())
        _logger.warning("looking for log lines ten times a second, because inotify says: %s", reason)
    return descriptor


def _settle(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)


def _drain(descriptor: int) -> None:
    try:
        while len(os.read(descriptor, _READ_BYTES)) > _READ_BYTES // 2:
            pass
    except BlockingIOError:
        pass
