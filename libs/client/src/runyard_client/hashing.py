"""Hashes of files on this machine: counted while they are read, no longer than somebody waits for them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
from collections.abc import Callable
from typing import TypeVar

from runyard_client.store import NobodyWaits, Progress
from runyard_contracts.ids import Sha256

Result = TypeVar("Result")

_BLOCK_BYTES = 1 << 18


def sha256_of_file(file: io.FileIO, on_bytes: Progress) -> Sha256:
    """Hash an open file to its end; ``on_bytes`` is called with the number of bytes just read.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    while count := file.readinto(block):
        digest.update(block[:count])
        on_bytes(count)
    return Sha256(digest.hexdigest())


async def in_thread(work: Callable[[Progress], Result], on_bytes: Progress) -> Result:
    """Do work that hashes in a thread. When its caller is cancelled, it ends with its next block.

    Args:
        work: gets what it is to call with the number of bytes just read.
        on_bytes: called by it, from other threads, as long as somebody waits.
    """
    left = threading.Event()

    def count(byte_count: int) -> None:
        if left.is_set():
            raise NobodyWaits
        on_bytes(byte_count)

    try:
        return await asyncio.to_thread(work, count)
    finally:
        left.set()
