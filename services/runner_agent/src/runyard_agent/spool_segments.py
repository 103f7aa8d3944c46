"""The files of a spool: each is named by the first sequence in it, and only the last one grows."""

from __future__ import annotations

import os
from pathlib import Path

from runyard_agent.durable_files import sync_folder
from runyard_agent.spool_file import FRAME_BYTES_MAX, Frame, decode_frames

_READ_BYTES = 1024 * 1024


class Segments:
    """Which segments there are, how large they are, and the one that is written to."""

    def __init__(self, directory: Path) -> None:
        """Know of no segment yet."""
        self._directory = directory
        self._descriptor = -1
        self.sizes: dict[int, int] = {}
        """First sequence -> bytes."""

    @property
    def current(self) -> int:
        """The last one, by its first sequence."""
        return max(self.sizes)

    @property
    def current_bytes(self) -> int:
        """How large the last one is."""
        return self.sizes[self.current]

    @property
    def all_bytes(self) -> int:
        """How large all are together."""
        return sum(self.sizes.values())

    def on_disk(self) -> list[int]:
        """Give the first sequence of each file that is there, in order."""
        return sorted(int(path.stem) for path in self._directory.glob("*.segment"))

    def path(self, first_sequence: int) -> Path:
        """Say where a segment is."""
        return self._directory / f"{first_sequence:020d}.segment"

    def begin(self, first_sequence: int) -> None:
        """Write to this segment from now on: a new one, or the last one that is there.

        Raises:
            OSError: it cannot be made; then it goes on with the one before.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.path(first_sequence), flags, 0o600)
        sync_folder(self._directory)
        os.fdatasync(descriptor)
        self.close()
        self.sizes.setdefault(first_sequence, 0)
        self._descriptor = descriptor

    def write(self, frame: bytes) -> None:
        """Add a frame to the last segment, or nothing of it.

        Raises:
            OSError: the disk is full or broken.
        """
        size = self.current_bytes
        try:
            view = memoryview(frame)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        self.sizes[self.current] = size + len(frame)

    def sync(self) -> None:
        """Put what was written on the disk; blocks."""
        os.fdatasync(self._descriptor)

    def copy_descriptor(self) -> int:
        """Give the last segment's file once more, which stays open when another segment is begun."""
        return os.dup(self._descriptor)

    def remove(self, first_sequence: int) -> None:
        """Throw a segment away."""
        self.path(first_sequence).unlink()
        del self.sizes[first_sequence]

    def holding(self, sequence: int) -> int:
        """Give the segment that a sequence is in."""
        return max(first for first in self.sizes if first <= sequence)

    def after(self, segment: int) -> int | None:
        """Give the segment after one, if there is one."""
        return min((first for first in self.sizes if first > segment), default=None)

    def read_frames(self, segment: int, offset: int) -> list[Frame]:
        """Give the whole frames in about a megabyte from an offset on; at least one when there is one."""
        with self.path(segment).open("rb") as file:
            file.seek(offset)
            content = file.read(_READ_BYTES)
            frames = list(decode_frames(content))
            if not frames and len(content) == _READ_BYTES:
                frames = list(decode_frames(content + file.read(FRAME_BYTES_MAX)))
        return frames

    def close(self) -> None:
        """Let go of the last segment's file."""
        if self._descriptor != -1:
            os.close(self._descriptor)
        self._descriptor = -1
