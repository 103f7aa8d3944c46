"""Folders and NFS exports that a program asks to see: found, held against what is allowed, and described.

They are read-only, and their files are not kept. What is recorded says where they lay, on which file system,
and a fingerprint of path, size and time of change of every file: a later look can tell whether they changed.
Nothing is mounted where the machine itself would see it: an export is mounted in the container, or in the
program's private view, and goes with it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runyard.run.v1.types_pb2 import Mount, MountedFolder
from runyard_agent import folder_look, private_view
from runyard_agent.domain.file_systems import FileSystem, nfs_of
from runyard_agent.input_sources import InputRules, shared_path
from runyard_core.errors import InvalidInput, RunyardError

_LOOK_SECONDS_MAX = 300.0
_CAP_SYS_ADMIN = 1 << 21
_OCTAL = re.compile(rb"\\([0-7]{3})")
# What mounts an export, and what has to be installed for it. Images of Debian come without "mount".
_PROGRAMS = {
    "mount": "package mount on Debian and Ubuntu, util-linux elsewhere",
    "mount.nfs": "package nfs-common on Debian and Ubuntu, nfs-utils elsewhere",
}
_RESERVED = ("/valohai", "/runyard", "/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True)
class Found:
    """Something that a program will see, and how the record describes it."""

    record: MountedFolder
    file_system: FileSystem | None = None
    """To be mounted; None for a folder of the node."""


def find_mounts(
    asked: Sequence[Mount], rules: InputRules, attempt_directory: Path, *, in_container: bool
) -> list[Found]:
    """Find what a run asks to see, and look through it.

    Raises:
        RunyardError: ENVIRONMENT_UNAVAILABLE, something cannot be shown.
    """
    return [_find(mount, rules, attempt_directory, in_container=in_container) for mount in asked]


def mounting_problem() -> str:
    """Say why this agent cannot mount exports, and what to install; empty when it can."""
    if not _effective_capabilities() & _CAP_SYS_ADMIN or os.geteuid() != 0:
        return "its agent is not root"
    return " and ".join(
        f"{program} is not installed ({packages})"
        for program, packages in _PROGRAMS.items()
        if shutil.which(program, path=private_view.PROGRAMS_PATH) is None
    )


def _find(mount: Mount, rules: InputRules, attempt_directory: Path, *, in_container: bool) -> Found:
    try:
        _check_destination(mount.destination)
        if mount.type:
            return _find_export(mount, rules, attempt_directory, in_container=in_container)
        if not mount.source.startswith("/"):
            raise InvalidInput("its source is no whole path")
        real_path = shared_path(mount.source, rules.shared_folders)
        if not real_path.is_dir():
            raise InvalidInput("its source is no folder")
        record = MountedFolder(source=mount.source, destination=mount.destination, real_path=str(real_path))
        record.file_system, record.device = _file_system(str(real_path))
        record.file_count, record.size_bytes, record.fingerprint = folder_look.look(str(real_path))
    except (InvalidInput, OSError) as error:
        raise RunyardError(
            f"{mount.source} cannot be shown at {mount.destination}: {error}", code="ENVIRONMENT_UNAVAILABLE"
        ) from error
    return Found(record)


def _find_export(mount: Mount, rules: InputRules, attempt_directory: Path, *, in_container: bool) -> Found:
    wanted = nfs_of(mount.source, mount.destination, mount.type, mount.options, rules.nfs_exports)
    record = MountedFolder(source=mount.source, destination=mount.destination)
    record.file_system, record.device = wanted.kind, wanted.source
    problem = mounting_problem()
    if not problem:
        record.file_count, record.size_bytes, record.fingerprint = look_at(wanted, attempt_directory)
    elif not in_container:
        raise InvalidInput(
            f"{problem}, so it mounts nothing for processes: run the step in a container, or mount it on the "
            "node and name its folder in RUNYARD_SHARED_FOLDERS"
        )
    return Found(record, wanted)


def look_at(wanted: FileSystem, attempt_directory: Path) -> tuple[int, int, str]:
    """Look through a file system that is mounted for this look alone.

    Raises:
        InvalidInput: it cannot be mounted; with the words of ``mount``.
    """
    python = (sys.executable, "-I", "-S")
    command = (
        *(*python, private_view.__file__, str(attempt_directory)),
        *(private_view.MOUNT, *wanted.words),
        *(*python, folder_look.__file__, wanted.destination),
    )
    try:
        done = subprocess.run(
            command,
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LOOK_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidInput(f"no answer of its server in {_LOOK_SECONDS_MAX:.0f} s") from None
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").split("\n")
        raise InvalidInput(" ".join(filter(None, words[-3:])) or f"mount ended with {done.returncode}")
    file_count, size_bytes, fingerprint = json.loads(done.stdout)
    return file_count, size_bytes, fingerprint


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _check_destination(destination: str) -> None:
    path = PurePosixPath(destination)
    is_plain = path.is_absolute() and ".." not in path.parts and "\0" not in destination and str(path) != "/"
    if not is_plain or any(path.is_relative_to(reserved) for reserved in _RESERVED):
        raise InvalidInput(f"a program sees nothing of its own choice at {destination!r}")


def _file_system(real_path: str) -> tuple[str, str]:
    """Give kind and source of what is mounted where a path lies: the longest mount point above it."""
    best, found = "", ("", "")
    for line in Path("/proc/self/mountinfo").read_bytes().rstrip(b"\n").split(b"\n"):
        before, _, after = line.partition(b" - ")
        # Names are bytes, some of them written as octal numbers.
        point = os.fsdecode(_OCTAL.sub(lambda byte: bytes([int(byte[1], 8)]), before.split(b" ")[4]))
        if len(point) >= len(best) and PurePosixPath(real_path).is_relative_to(point):
            kind, device = (word.decode("utf-8", "replace") for word in after.split(b" ")[:2])
            best, found = point, (kind, device)
    return found
