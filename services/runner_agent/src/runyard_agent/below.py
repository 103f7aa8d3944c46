"""Opens and removes files below a folder that a hostile program may be changing at this very moment."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def open_below(root: Path, path: PurePosixPath) -> int:
    """Open a regular file below a folder for reading, whatever else changes names there meanwhile.

    Raises:
        OSError: it is gone, or a symlink or something else has taken its place.
    """
    with _parent_of(root, path) as directory:
        # Not blocking: opening a pipe that has taken the file's place would wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path.name, flags, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file any more")
    return descriptor


def read_below(root: Path, path: PurePosixPath, bytes_max: int) -> bytes:
    """Read a small file below a folder.

    Raises:
        OSError: as ``open_below``, or it is larger.
    """
    descriptor = open_below(root, path)
    try:
        content = b""
        while chunk := os.read(descriptor, 1 << 16):
            content += chunk
            if len(content) > bytes_max:
                raise OSError(f"{path} has more than {bytes_max} bytes")
        return content
    finally:
        os.close(descriptor)


def remove_below(root: Path, path: PurePosixPath, opened: os.stat_result) -> bool:
    """Remove the file that was opened, if it is still the one of that name and unchanged.

    Raises:
        OSError: it may not be removed.
    """
    with _parent_of(root, path) as directory:
        found = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
        if (found.st_ino, found.st_mtime_ns, found.st_size) != (
            opened.st_ino, opened.st_mtime_ns, opened.st_size,
        ):  # fmt: skip
            return False
        os.unlink(path.name, dir_fd=directory)
    return True


@contextlib.contextmanager
def _parent_of(root: Path, path: PurePosixPath) -> Iterator[int]:
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path.parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            child = os.open(part, flags, dir_fd=directory)
            os.close(directory)
            directory = child
        yield directory
    finally:
        os.close(directory)
