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
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOCK_POLL_SECONDS = 0.05
_USERS = "users"
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

    def __init__(self, directory: Path) -> None:
        """Use a folder, made when missing."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

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

    def publish(self, key: str, directory: Path, probe: str) -> SharedEnvironment:
        """Point to a finished environment."""
        (directory / _USERS).mkdir()
        content = {"directory": directory.name, "fingerprint": _fingerprint(directory), "probe": probe}
        temporary = self._directory / f"{key}.{secrets.token_hex(4)}.new"
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(self._pointer(key))
        return SharedEnvironment(directory, probe)

    def add_user(self, shared: SharedEnvironment, user: Path) -> None:
        """Keep an environment for as long as a folder exists."""
        name = hashlib.sha256(os.fsencode(user)).hexdigest()[:32]
        (shared.directory / _USERS / name).write_text(str(user), encoding="utf-8")

    def trim(self, count_max: int) -> None:
        """Remove what was not used for longest, and what was never finished; nothing that is in use."""
        pointers = sorted(self._directory.glob("*.json"), key=_age_seconds)
        kept: set[str] = set()
        for index, pointer in enumerate(pointers):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
                directory = str(json.loads(pointer.read_bytes())["directory"])
                if index < count_max or _has_users(self._directory / directory):
                    kept.add(directory)
                else:
                    pointer.unlink()
        for directory_path in self._directory.iterdir():
            if directory_path.is_dir() and directory_path.name not in kept:
                is_finished = (directory_path / _USERS).is_dir()
                if not _has_users(directory_path) and (
                    is_finished or _age_seconds(directory_path) > _ABANDONED_SECONDS
                ):
                    shutil.rmtree(directory_path, ignore_errors=True)

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
