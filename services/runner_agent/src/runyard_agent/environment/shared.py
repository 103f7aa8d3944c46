"""Shared environments on disk: which folder holds which, who uses it, and which may go."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT_BYTES_MAX = 50 << 30
"""What shared environments may take together; those in use stay in any case."""

_LOCK_POLL_SECONDS = 0.05
_USERS = "users"
_GONE = "gone-"
# A folder that nobody points to may be one that somebody is building.
_ABANDONED_SECONDS = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class SharedEnvironment:
    """A finished environment."""

    directory: Path
    probe: str
    """The line that the probe printed in it."""


class SharedEnvironments:
    """A folder with ``<key>.json`` (pointers), ``<key>.lock``, and ``<key>-<random>/`` (environments)."""

    def __init__(self, directory: Path, *, size_bytes_max: int = ENVIRONMENT_BYTES_MAX) -> None:
        """Use a folder, made when missing; ``trim`` keeps it below the size."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._size_bytes_max = size_bytes_max

    def take(self, key: str, user: Path) -> SharedEnvironment | None:
        """Give the environment of a key, and keep it for as long as a folder exists."""
        # Between the two a trim might take it for one that nobody uses.
        with self._still(fcntl.LOCK_SH):
            found = self.find(key)
            if found is not None:
                self.add_user(found, user)
        return found

    def find(self, key: str) -> SharedEnvironment | None:
        """Give the environment of a key, if it still is what it was when it was finished."""
        pointer = self._pointer(key)
        try:
            content = json.loads(pointer.read_bytes())
            found = SharedEnvironment(self._directory / content["directory"], content["probe"])
            if _fingerprint(found.directory) != content["fingerprint"]:
                return None
            os.utime(pointer)
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return found

    @contextlib.asynccontextmanager
    async def locked(self, key: str) -> AsyncIterator[None]:
        """Wait until nobody else builds for this key: no other task, no other agent on this folder."""
        descriptor = os.open(self._directory / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def new_directory(self, key: str) -> Path:
        """Name a folder to build in. Scripts hold its name, so it is never renamed."""
        return self._directory / f"{key}-{secrets.token_hex(4)}"

    def publish(
        self, key: str, directory: Path, probe: str, *, user: Path | None = None
    ) -> SharedEnvironment:
        """Point to a finished environment, used from the beginning by a folder."""
        shared = SharedEnvironment(directory, probe)
        (directory / _USERS).mkdir()
        if user is not None:
            self.add_user(shared, user)
        content = {
            "directory": directory.name,
            "fingerprint": _fingerprint(directory),
            "probe": probe,
            "size_bytes": _size_bytes(directory),
        }
        temporary = self._directory / f"{key}.{secrets.token_hex(4)}.new"
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(self._pointer(key))
        return shared

    def add_user(self, shared: SharedEnvironment, user: Path) -> None:
        """Keep an environment for as long as a folder exists, which is made now."""
        user.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(os.fsencode(user)).hexdigest()[:32]
        (shared.directory / _USERS / name).write_text(str(user), encoding="utf-8")

    def trim(self) -> None:
        """Remove what was not used for longest until the rest takes less than it may; nothing that is in use.

        What was never finished goes, too.
        """
        # Sizes first: whoever wants one meanwhile must not wait for a look at a million files.
        sizes = dict(self._sizes())
        with self._still(fcntl.LOCK_EX):
            gone = list(self._put_away(self._kept(sizes)))
        for directory in gone:
            shutil.rmtree(directory, ignore_errors=True)

    def _sizes(self) -> Iterator[tuple[str, int]]:
        """Give the size of each environment; one that was made before sizes were kept is looked at."""
        for pointer in self._directory.glob("*.json"):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
                content = json.loads(pointer.read_bytes())
                directory = str(content["directory"])
                yield directory, int(content.get("size_bytes") or _size_bytes(self._directory / directory))

    def _kept(self, sizes: Mapping[str, int]) -> set[str]:
        """Name the folders that stay, and forget the others."""
        kept: set[str] = set()
        size_bytes = 0
        for pointer in sorted(self._directory.glob("*.json"), key=_age_seconds):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
                directory = str(json.loads(pointer.read_bytes())["directory"])
                # One that came after the look at sizes has none, and stays.
                total = size_bytes + sizes.get(directory, 0)
                if total <= self._size_bytes_max or _has_users(self._directory / directory):
                    kept.add(directory)
                    size_bytes = total
                else:
                    pointer.unlink()
        return kept

    def _put_away(self, kept: set[str]) -> Iterator[Path]:
        """Take folders out of the way: whoever comes next must not find half of one."""
        for path in self._directory.iterdir():
            if path.name.startswith(_GONE):
                # Another one removes it just now, or was killed at it.
                yield path
                continue
            if not path.is_dir() or path.name in kept or _has_users(path):
                continue
            is_finished = (path / _USERS).is_dir()
            if is_finished or _age_seconds(path) > _ABANDONED_SECONDS:
                gone = self._directory / f"{_GONE}{secrets.token_hex(4)}"
                path.rename(gone)
                yield gone

    @contextlib.contextmanager
    def _still(self, operation: int) -> Iterator[None]:
        """Hold that nobody trims (LOCK_SH), or that nobody takes one (LOCK_EX): for moments only."""
        descriptor = os.open(self._directory / "trim.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation)
            yield
        finally:
            os.close(descriptor)

    def _pointer(self, key: str) -> Path:
        return self._directory / f"{key}.json"


def site_packages(directory: Path) -> Path:
    """Give the folder of an environment that packages are installed in.

    Raises:
        FileNotFoundError: there is none.
    """
    for found in directory.glob("lib/python*/site-packages"):
        return found
    raise FileNotFoundError(f"{directory} is not a virtual environment")


def _fingerprint(directory: Path) -> str:
    """Hash the names of what is installed: each package has a folder named by its version."""
    names: Sequence[str] = sorted(os.listdir(site_packages(directory)))
    return hashlib.sha256("\n".join(name for name in names if name != "__pycache__").encode()).hexdigest()


def _size_bytes(directory: Path) -> int:
    """Give what a folder takes on the disk, each file once however many names it has in it."""
    blocks: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(folder, name))
                blocks[found.st_dev, found.st_ino] = found.st_blocks
    return sum(blocks.values()) * 512


def _has_users(directory: Path) -> bool:
    return any(os.path.lexists(user) for user in _users(directory))


def _users(directory: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        for file in (directory / _USERS).iterdir():
            yield file.read_text(encoding="utf-8")


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
