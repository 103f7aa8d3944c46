"""Folders of the node that a program asks to see: found, held against what is shared, and described.

They are read-only, and their files are not kept. What is recorded says where they lay, on which file system,
and a fingerprint of path, size and time of change of every file: a later look can tell whether they changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from runyard.run.v1.types_pb2 import Mount, MountedFolder
from runyard_agent.input_sources import shared_path
from runyard_core.errors import InvalidInput, RunyardError

FILES_MAX = 100_000
"""Beyond so many files no fingerprint is taken."""

_RESERVED = ("/valohai", "/runyard", "/proc", "/sys", "/dev")


def find_mounts(asked: Sequence[Mount], shared_folders: Sequence[Path]) -> list[MountedFolder]:
    """Find the folders that a run asks to see, and look through them.

    Raises:
        RunyardError: ENVIRONMENT_UNAVAILABLE, one cannot be shown.
    """
    return [_find(mount, shared_folders) for mount in asked]


def _find(mount: Mount, shared_folders: Sequence[Path]) -> MountedFolder:
    try:
        _check_destination(mount.destination)
        if mount.type:
            raise InvalidInput(
                f"file systems of type {mount.type!r} are not mounted for runs: mount it on the node, and "
                "name its folder in RUNYARD_SHARED_FOLDERS"
            )
        if not mount.source.startswith("/"):
            raise InvalidInput("its source is no whole path")
        real_path = shared_path(mount.source, shared_folders)
        if not real_path.is_dir():
            raise InvalidInput("its source is no folder")
        found = MountedFolder(source=mount.source, destination=mount.destination, real_path=str(real_path))
        found.file_system, found.device = _file_system(str(real_path))
        _look_through(found)
    except (InvalidInput, OSError) as error:
        raise RunyardError(
            f"{mount.source} cannot be shown at {mount.destination}: {error}", code="ENVIRONMENT_UNAVAILABLE"
        ) from error
    return found


def _check_destination(destination: str) -> None:
    path = PurePosixPath(destination)
    is_plain = path.is_absolute() and ".." not in path.parts and "\0" not in destination and str(path) != "/"
    if not is_plain or any(path.is_relative_to(reserved) for reserved in _RESERVED):
        raise InvalidInput(f"a program sees nothing of its own choice at {destination!r}")


def _look_through(found: MountedFolder) -> None:
    digest = hashlib.sha256()
    for count, (path, stat) in enumerate(_files_below(found.real_path), start=1):
        if count > FILES_MAX:
            return
        found.file_count = count
        found.size_bytes += stat.st_size
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    found.fingerprint = digest.hexdigest()


def _files_below(root: str) -> Iterator[tuple[str, os.stat_result]]:
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            try:
                yield os.path.relpath(path, root), os.lstat(path)
            except FileNotFoundError:
                continue


def _file_system(real_path: str) -> tuple[str, str]:
    """Give kind and source of what is mounted where a path lies: the longest mount point above it."""
    best, found = "", ("", "")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            point = before.split()[4].encode().decode("unicode_escape")
            if len(point) >= len(best) and PurePosixPath(real_path).is_relative_to(point):
                kind, device = after.split()[:2]
                best, found = point, (kind, device)
    return found
