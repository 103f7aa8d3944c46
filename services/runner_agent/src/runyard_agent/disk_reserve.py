"""A piece of the disk that is kept for the time when there is none left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """A file that is there to be given up: what must be written on a full disk is written in its place."""

    def __init__(self, path: Path, bytes_count: int) -> None:
        """Take the place, when there is some."""
        self._path = path
        self._bytes_count = bytes_count
        self.take()

    def take(self) -> None:
        """Take the place (again); without any it is tried the next time."""
        if self._path.exists() and self._path.stat().st_size == self._bytes_count:
            return
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(descriptor, 0, self._bytes_count)
        except OSError:
            self._path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def spend_on(self, write: Callable[[], Result]) -> Result:
        """Do what writes; when the disk is full, once more in the place that was kept.

        Raises:
            OSError: it is full all the same, or something else is wrong with it.
        """
        try:
            return write()
        except OSError as error:
            if not is_full(error):
                raise
            self._path.unlink(missing_ok=True)
            return write()


def is_full(error: OSError) -> bool:
    """Say whether a disk has no room, or its user no right to more."""
    return error.errno in _FULL
