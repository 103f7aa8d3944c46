"""Up to which sequence a spool has given batches out to be sent: their bytes may not change any more."""

from __future__ import annotations

import os
from pathlib import Path

_AHEAD = 1000
_DIGITS = 20


class GivenOut:
    """A number on the disk that is never smaller than the last sequence given out."""

    def __init__(self, path: Path, default: int) -> None:
        """Read it; of a spool without it everything up to ``default`` may have been sent."""
        self._path = path
        try:
            self.through = int(path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            self.through = default
            self._write()

    def note(self, sequence: int) -> None:
        """Batches up to this one are about to be given out; on the disk when this returns."""
        if sequence > self.through:
            # Not once for each: the disk would be asked for every batch.
            self.through = sequence + _AHEAD
            self._write()

    def _write(self) -> None:
        # In place, so that a full disk has room for it.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, f"{self.through:0{_DIGITS}d}".encode(), 0)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
