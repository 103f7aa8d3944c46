"""Small files that can be written on a full disk: their place is taken while there is some.

The shim and the container watch import it: the standard library only, and little of it.
"""

from __future__ import annotations

import json
import os

RESERVED_BYTES = 4096


def reserve(path: str) -> None:
    """Take the place on the disk that a file will need, while there is some."""
    descriptor = os.open(path + ".new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, RESERVED_BYTES)
    finally:
        os.close(descriptor)


def write_atomically(path: str, value: dict[str, object]) -> None:
    """Write a file of the working folder, as JSON, so that it is there whole or not at all.

    Raises:
        OSError: the disk is full, and nothing, or too little, was reserved; or it is broken.
    """
    content = json.dumps(value).encode()
    descriptor = os.open(path + ".new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Over what is reserved: a full disk has no other place for it.
        if os.pwrite(descriptor, content, 0) < len(content):
            raise OSError(f"{path} could not be written whole")
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(path + ".new", path)
    folder = os.open(".", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
