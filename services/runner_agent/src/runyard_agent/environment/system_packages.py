"""The packages of an operating system, as its own database lists them: in an image, or of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from runyard.run.v1.types_pb2 import Package

PACKAGES_MAX = 20_000

# One package a line, its parts separated by tabs. Only what every shell has: "cat" may be missing.
SCRIPT = r"""
if command -v dpkg-query >/dev/null; then
  dpkg-query -W -f='deb\t${Package}\t${Version}\t${db:Status-Abbrev}\n'
elif [ -r /lib/apk/db/installed ]; then
  while IFS= read -r line; do
    case $line in
      P:*) name=${line#P:} ;;
      V:*) version=${line#V:} ;;
      '') [ -z "$name" ] || printf 'apk\t%s\t%s\n' "$name" "$version"; name= ;;
    esac
  done </lib/apk/db/installed
elif command -v rpm >/dev/null; then
  rpm -qa --qf 'rpm\t%{NAME}\t%{VERSION}-%{RELEASE}\n'
fi
"""
"""Run by any shell it prints what ``read_packages`` reads."""

_KINDS = frozenset({"deb", "apk", "rpm"})
_LIST_SECONDS_MAX = 30.0
# Where the databases are: as long as none of these files changes, no package has.
_DATABASES = (
    "/var/lib/dpkg/status",
    "/lib/apk/db/installed",
    *(
        f"{folder}/{name}"
        for folder in ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
        for name in ("rpmdb.sqlite", "rpmdb.sqlite-wal", "Packages.db", "Packages")
    ),
)

Tell = Callable[[str], None]


def read_packages(lines: Iterable[Sequence[str]]) -> list[Package]:
    """Read the parts of lines that are packages, by name; other lines are passed over."""
    found = [
        Package(name=values[0], version=values[1], kind=kind)
        for kind, *values in lines
        # Of a package that was removed, its settings may still be known.
        if kind in _KINDS and len(values) >= 2 and (kind != "deb" or values[-1].startswith("ii"))
    ]
    found.sort(key=lambda package: package.name)
    return found[:PACKAGES_MAX]


class MachinePackages:
    """The packages of this machine; listed anew only when its database has changed."""

    def __init__(self, databases: Sequence[str] = _DATABASES, path_variable: str = os.defpath) -> None:
        """Look at these files for changes, and for the listing program on this PATH."""
        self._databases = databases
        self._path_variable = path_variable
        self._listing = asyncio.Lock()
        self._known: tuple[object, list[Package]] = (None, [])

    async def get(self, tell: Tell = lambda _: None) -> Sequence[Package]:
        """List them, by name; none where there is no database. ``tell`` hears when it cannot be read."""
        async with self._listing:
            state = self._state()
            if state == self._known[0]:
                return self._known[1]
            found = await self._list() if state else []
            if state and not found:
                tell("the packages of this machine's system cannot be listed: the record lacks them")
            else:
                self._known = (state, found)
            return found

    def _state(self) -> object:
        found = []
        for name in self._databases:
            with contextlib.suppress(OSError):
                stat = Path(name).stat()
                found.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(found)

    async def _list(self) -> list[Package]:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", SCRIPT,
            env={"PATH": self._path_variable, "LC_ALL": "C"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_LIST_SECONDS_MAX):
                printed, _ = await process.communicate()
        except TimeoutError:
            return []
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        lines = printed.decode("utf-8", "replace").splitlines()
        return read_packages(line.split("\t") for line in lines)
