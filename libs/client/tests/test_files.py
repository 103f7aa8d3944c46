"""Files of this machine, before anything of them is sent."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from functools import partial
from pathlib import Path

import pytest

from runyard_client import Client, Context
from runyard_client.context import SERVICES
from runyard_client.errors import LocalError
from runyard_client.files import hash_file, upload_file
from runyard_client.hashing import in_thread
from runyard_client.snapshot import take_snapshot


@pytest.mark.parametrize("size_bytes", [0, 1, 3_000_000])
def test_a_file_is_hashed_and_its_bytes_are_counted(size_bytes: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size_bytes // 256) + bytes(size_bytes % 256)
    (tmp_path / "file").write_bytes(content)
    counts: list[int] = []

    found = hash_file(tmp_path / "file", counts.append)

    assert (found.sha256, found.size_bytes) == (hashlib.sha256(content).hexdigest(), size_bytes)
    assert sum(counts) == size_bytes


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"none: No such file") as caught:
        hash_file(tmp_path / "none")
    assert caught.value.reason == "FILE_UNREADABLE"


async def test_who_leaves_does_not_wait_for_the_whole_code_to_be_hashed(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.bin").write_bytes(bytes(4 << 20))
    loop, began, has_left = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    counts: list[int] = []

    def on_hashed(count: int) -> None:
        counts.append(count)
        loop.call_soon_threadsafe(began.set)
        assert has_left.wait(30)

    task = asyncio.ensure_future(in_thread(partial(take_snapshot, tmp_path), on_hashed))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    has_left.set()
    await loop.shutdown_default_executor()
    assert sum(counts) < 8 << 20


async def test_who_leaves_does_not_wait_for_the_whole_file_to_be_hashed(tmp_path: Path) -> None:
    size_bytes = 8 << 20
    (tmp_path / "file").write_bytes(bytes(size_bytes))
    loop, began, has_left = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    counts: list[int] = []

    def on_hashed(count: int) -> None:
        counts.append(count)
        loop.call_soon_threadsafe(began.set)
        assert has_left.wait(30)

    nowhere = Context(addresses=dict.fromkeys(SERVICES, "127.0.0.1:1"), token="t0ken")
    async with Client.connect(nowhere) as client:
        task = asyncio.ensure_future(upload_file(client, tmp_path / "file", on_hashed=on_hashed))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    has_left.set()
    await loop.shutdown_default_executor()
    assert sum(counts) < size_bytes
