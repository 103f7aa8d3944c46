"""How much disk the folders of an attempt take, while a hostile program may be changing them.

The shim and the container watch import it: the standard library only, and little of it.
"""

from __future__ import annotations

import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH_MAX = 500
"""Nobody nests folders deeper than this but to hide something in them."""

_NAME_TOO_LONG = 36
_LOOK_SECONDS = 1.0
# A folder of a million files takes seconds to look through: most of the time is the program's.
_REST_FOR_EACH_SECOND = 20.0


class DiskWatch:
    """Looks again and again at what one attempt takes of the disk."""

    def __init__(self, plan: dict) -> None:  # type: ignore[type-arg]
        """Take from a plan: ``disk_bytes_max``, ``disk_folders``, and ``given_folders``.

        Of the last ones only what changes from now on counts: they hold what the agent put there.
        """
        self.bytes_max: int = plan["disk_bytes_max"]
        self._folders: list[str] = plan["disk_folders"]
        self._given: list[str] = plan["given_folders"]
        self._began_on = time.time()
        self._shared_bytes: int | None = None
        self.look_at = 0.0
        """When to look next, on the clock of ``CLOCK_BOOTTIME``."""

    def watch_too(self, folder: str) -> None:
        """Count another folder; nothing when its name is empty, or when we may not look into it."""
        if folder:
            self._folders.append(folder)

    def excess(self) -> str:
        """Look, and give a sentence when it is too much."""
        began_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            used = disk_bytes(self._folders, self.bytes_max)
            used += self._given_bytes()
        except TooDeep:
            return "its folders are nested too deep to be measured"
        ended_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.look_at = ended_at + max(_LOOK_SECONDS, _REST_FOR_EACH_SECOND * (ended_at - began_at))
        return f"its folders took more than {self.bytes_max} bytes of the disk" * (used > self.bytes_max)

    def _given_bytes(self) -> int:
        """Give what was added to the folders that the agent has filled."""
        changed, shared = given_bytes(self._given, self._began_on)
        if self._shared_bytes is None or shared < self._shared_bytes:
            self._shared_bytes = shared
        return changed + shared - self._shared_bytes


class TooDeep(Exception):
    """Folders are nested deeper than anybody will follow."""


def disk_bytes(folders: list[str], enough: int) -> int:
    """Give the bytes that files below some folders take on the disk, or a number above ``enough``.

    Holes of sparse files count nothing, files with several names in there count once. What cannot be read or
    is gone meanwhile counts nothing.

    Raises:
        TooDeep: more than ``DEPTH_MAX`` folders in each other.
    """
    total = 0
    linked: set[tuple[int, int]] = set()
    for folder in folders:
        for found in _stats(folder):
            if found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                key = (found.st_dev, found.st_ino)
                if key in linked:
                    continue
                linked.add(key)
            total += found.st_blocks * 512
            if total > enough:
                return total
    return total


def given_bytes(folders: list[str], changed_after: float) -> tuple[int, int]:
    """Give the bytes of what changed after a time (seconds since 1970), and of all files with more names.

    Of those no time tells a change: each name that another attempt gives to a file of the cache is one.

    Raises:
        TooDeep: more than ``DEPTH_MAX`` folders in each other.
    """
    changed = shared = 0
    linked: set[tuple[int, int]] = set()
    for folder in folders:
        for found in _stats(folder):
            if found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                key = (found.st_dev, found.st_ino)
                shared += found.st_blocks * 512 * (key not in linked)
                linked.add(key)
            elif found.st_ctime > changed_after:
                changed += found.st_blocks * 512
    return changed, shared


def _stats(root: str) -> Iterator[os.stat_result]:
    waiting = [(root, 0)]
    while waiting:
        path, depth = waiting.pop()
        if depth > DEPTH_MAX:
            raise TooDeep
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == _NAME_TOO_LONG:
                raise TooDeep from None
            continue
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        yield entry.stat(follow_symlinks=False)
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append((f"{path}/{entry.name}", depth + 1))
                    except OSError:
                        continue
        finally:
            os.close(folder)
