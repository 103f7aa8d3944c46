"""Files that the node has fetched already, by SHA-256; never given out without a look at their bytes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Container, Iterable
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from runyard_agent.blocking import BlockingPool
from runyard_agent.disk_reserve import is_full
from runyard_core.errors import Corrupt, ResourceExhausted

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
_NEW = ".new"

Written = TypeVar("Written")

Fetch = Callable[[Path], Awaitable[object]]
"""Writes the bytes wanted to a path, held against their hash."""

Take = Callable[[Path, bool], bool]
"""Uses a cached file; checks its bytes when the flag says so, and gives False when they are wrong."""


class ContentCache:
    """A folder of files named by their hash. Safe for several users at once: files appear by rename.

    A hit may have been changed by a program that has a hard link to it, so every hit is hashed.
    """

    def __init__(self, directory: Path, *, size_bytes_max: int = 50 << 30) -> None:
        """Use a folder, made on first use; ``trim`` keeps it below the size."""
        self._directory = directory
        self._size_bytes_max = size_bytes_max
        self._pool = BlockingPool("cache", thread_count=4)
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Files that are being written now; any other one with such a name was left by a killed agent.
        self._arriving: set[Path] = set()
        self._freed_bytes = 0

    async def link(self, sha256: str, destination: Path, fetch: Fetch) -> bool:
        """Give the file under another name, read-only and sharing its bytes where the disk allows it.

        Args:
            sha256: the bytes wanted.
            destination: a path in an existing folder; what is there is replaced.
            fetch: called with a path to write the bytes to when the cache does not have them.

        Returns:
            True when the cache had it.
        """
        return await self._give(
            sha256, fetch, lambda cached, is_checked: _link(cached, destination, sha256 if is_checked else "")
        )

    async def copy(self, sha256: str, destination: Path, fetch: Fetch, *, mode: int) -> bool:
        """Give a copy of the file that its user may change; otherwise as ``link``."""
        return await self._give(sha256, fetch, lambda cached, _: _copy(cached, destination, sha256, mode))

    async def read(self, sha256: str, fetch: Fetch) -> bytes:
        """Give the bytes of a small file; otherwise as ``link``."""
        contents: list[bytes] = []

        def take(cached: Path, _: bool) -> bool:
            data = cached.read_bytes()
            contents.append(data)
            return hashlib.sha256(data).hexdigest() == sha256

        await self._give(sha256, fetch, take)
        return contents[-1]

    async def lacking(self, sha256s: Iterable[str]) -> list[str]:
        """Give those that it does not have, each once."""
        wanted = dict.fromkeys(sha256s)
        return await self._pool.run(None, lambda: [one for one in wanted if not self._path(one).exists()])

    async def with_room(self, write: Callable[[], Awaitable[Written]]) -> Written:
        """Do what writes to our disk; when that is full, once more without the files that nobody uses.

        Args:
            write: must be safe to repeat.

        Raises:
            OSError, RunyardError: of ``write``; on a full disk, when nothing more could be removed.
        """
        freed_bytes = self._freed_bytes
        try:
            return await write()
        except (OSError, ResourceExhausted) as error:
            if not _says_full(error):
                raise
            found = await self._pool.run(None, _trim, self._directory, 0, self._arriving)
            self._freed_bytes += found
            logger.warning("the disk is full: %d bytes of files that nobody uses are removed", found)
            # Others that write may have found it full, too, and removed all before us.
            if self._freed_bytes == freed_bytes:
                raise
        return await write()

    async def trim(self) -> None:
        """Remove what was not used for longest until the folder is below its size, but nothing in use."""
        await self._pool.run(None, _trim, self._directory, self._size_bytes_max, self._arriving)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.close()

    def _path(self, sha256: str) -> Path:
        return self._directory / sha256[:2] / sha256

    async def _give(self, sha256: str, fetch: Fetch, take: Take) -> bool:
        cached = self._path(sha256)
        # One at a time for each file, so that two users of it fetch it once.
        async with self._fetching.setdefault(sha256, asyncio.Lock()):
            return await self._give_one(cached, fetch, take)

    async def _give_one(self, cached: Path, fetch: Fetch, take: Take) -> bool:
        if await self._pool.run(None, _taken, cached, take):
            return True
        cached.parent.mkdir(parents=True, exist_ok=True)
        fetched = cached.parent / f"{cached.name}.{secrets.token_hex(4)}{_NEW}"
        self._arriving.add(fetched)
        try:
            await fetch(fetched)
            if not await self._pool.run(None, _kept, fetched, cached, take):
                raise Corrupt(f"the bytes fetched are not those of {cached.name}", code="CHECKSUM_MISMATCH")
        finally:
            fetched.unlink(missing_ok=True)
            self._arriving.discard(fetched)
        return False


def file_sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _taken(cached: Path, take: Take) -> bool:
    try:
        is_good = take(cached, True)
        if is_good:
            # Last use, for trim. The other time is the file's own and may be seen by its users.
            os.utime(cached, ns=(time.time_ns(), cached.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    except PermissionError:
        # A program has taken the mode bits of its name of it, which are those of ours.
        is_good = False
    if not is_good:
        cached.unlink(missing_ok=True)
    return is_good


def _kept(fetched: Path, cached: Path, take: Take) -> bool:
    fetched.chmod(0o444)
    if not take(fetched, False):
        return False
    fetched.replace(cached)
    return True


def _link(cached: Path, destination: Path, sha256: str) -> bool:
    """Link a file whose hash must be ``sha256``; empty when it is known to be right."""
    if sha256 and file_sha256(cached) != sha256:
        return False
    destination.unlink(missing_ok=True)
    try:
        destination.hardlink_to(cached)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        shutil.copyfile(cached, destination)
        destination.chmod(0o444)
    return True


def _copy(cached: Path, destination: Path, sha256: str, mode: int) -> bool:
    digest = hashlib.sha256()
    with cached.open("rb") as source:
        destination.unlink(missing_ok=True)
        with destination.open("xb") as target:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
    destination.chmod(mode)
    if digest.hexdigest() != sha256:
        destination.unlink()
        return False
    return True


def _trim(directory: Path, size_bytes_max: int, arriving: Container[Path]) -> int:
    """Remove files until the others take less; gives the bytes that are free for it."""
    files, freed_bytes = [], 0
    for path in directory.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):
            if path.suffix != _NEW:
                files.append((path, path.stat()))
            elif path not in arriving:
                path.unlink()
    size_bytes = sum(stat.st_size for _, stat in files)
    for path, stat in sorted(files, key=lambda file: file[1].st_atime_ns):
        if size_bytes <= size_bytes_max:
            break
        # A second name is in the folder of an attempt: removing ours would free nothing.
        if stat.st_nlink == 1:
            path.unlink(missing_ok=True)
            size_bytes -= stat.st_size
            freed_bytes += stat.st_size
    return freed_bytes


def _says_full(error: OSError | ResourceExhausted) -> bool:
    reason = error if isinstance(error, OSError) else error.__cause__
    return isinstance(reason, OSError) and is_full(reason)
