"""The cache of inputs and code: bounded, the longest unused goes first, and attempts never see it work."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard_agent.content_cache import ContentCache

from .other_users import let_others_in

pytestmark = pytest.mark.system

SIZE = 1_000


def content(number: int) -> bytes:
    return number.to_bytes(4, "big") * (SIZE // 4)


def name(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


class User:
    """Attempts that use a cache, and what they had to fetch."""

    def __init__(self, folder: Path, size_bytes_max: int) -> None:
        self.folder = folder
        self.cache = ContentCache(folder / "cache", size_bytes_max=size_bytes_max)
        self.fetched: list[int] = []

    async def use(self, number: int, attempt: str) -> bool:
        async def fetch(path: Path) -> None:
            self.fetched.append(number)
            await asyncio.to_thread(path.write_bytes, content(number))

        destination = self.folder / attempt / str(number)
        await asyncio.to_thread(destination.parent.mkdir, exist_ok=True)
        was_there = await self.cache.link(name(number), destination, fetch)
        assert await asyncio.to_thread(destination.read_bytes) == content(number)
        return was_there

    def end(self, attempt: str) -> None:
        for path in (self.folder / attempt).iterdir():
            path.unlink()

    def kept(self) -> set[int]:
        return {number for number in range(20) if self.cache._path(name(number)).exists()}

    def age(self, number: int, seconds: int) -> None:
        path = self.cache._path(name(number))
        os.utime(path, ns=(path.stat().st_atime_ns - seconds * 10**9, path.stat().st_mtime_ns))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    found = User(tmp_path, size_bytes_max=3 * SIZE)
    yield found
    found.cache.close()


async def test_what_was_unused_for_longest_goes_first_and_nothing_in_use_goes(user: User) -> None:
    for number in range(5):
        assert not await user.use(number, f"attempt-{number}")
        user.age(number, 100 - number)
    for ended in (0, 1, 2, 3):
        user.end(f"attempt-{ended}")
    # The oldest is used once more, and what still runs has its second name.
    assert await user.use(0, "again")
    user.end("again")
    await user.cache.trim()
    assert user.kept() == {0, 3, 4}
    user.age(4, 1_000)
    assert not await user.use(5, "last")
    await user.cache.trim()
    assert user.kept() == {0, 4, 5}


async def test_attempts_at_once_fetch_a_file_once_and_never_lose_it_to_the_trimming(user: User) -> None:
    async def work(attempt: str) -> None:
        for number in range(12):
            await user.use(number, attempt)
            await user.cache.trim()

    async with asyncio.TaskGroup() as group:
        for attempt in ("a", "b", "c"):
            group.create_task(work(attempt))
    assert sorted(user.fetched) == list(range(12))
    for attempt in ("a", "b", "c"):
        user.end(attempt)
    await user.cache.trim()
    assert len(user.kept()) == 3


async def test_a_file_that_was_changed_in_the_cache_is_fetched_again(user: User) -> None:
    await user.use(7, "a")
    path = user.cache._path(name(7))
    path.chmod(0o644)
    path.write_bytes(b"x" * SIZE)
    assert not await user.use(7, "b")
    assert user.fetched == [7, 7]


SHUT_OFF = """
import asyncio, os, sys
from pathlib import Path
from runyard_agent.content_cache import ContentCache
from runyard_contracts.ids import sha256_of

if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

async def main(folder: Path) -> None:
    cache = ContentCache(folder / "cache")

    async def fetch(path: Path) -> None:
        path.write_bytes(b"data")

    for name in ("first", "second", "third"):
        print(await cache.link(sha256_of(b"data"), folder / name, fetch), (folder / name).read_bytes())
        if name == "first":
            (folder / name).chmod(0)
    cache.close()

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_file_that_a_program_has_shut_off_is_fetched_again(tmp_path: Path) -> None:
    """It has a second name of the file in the cache; an agent that is not root can be shut out of that."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    let_others_in(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SHUT_OFF, str(place)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.splitlines(), done.stderr) == (["False b'data'", "False b'data'", "True b'data'"], "")


async def test_what_a_killed_agent_was_fetching_is_removed(user: User) -> None:
    await user.use(7, "a")
    left = user.cache._path(name(7)).with_suffix(".01234567.new")
    left.write_bytes(b"half")
    await user.cache.trim()
    assert not left.exists()
    assert user.kept() == {7}
