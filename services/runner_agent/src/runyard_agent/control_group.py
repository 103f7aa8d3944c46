"""A control group of the kernel for one attempt: limits that hold for all its processes, and one end for all.

The shim imports it: the standard library only, and little of it. A machine has one tree of groups for
everything (version 2), or one for each controller (version 1), or both; a group is the list of its folders
in them, and an empty list does nothing.
"""

from __future__ import annotations

import os
import signal

_PROCESSES = "cgroup.procs"


def enter(folders: list[str]) -> None:
    """Put this process, and with it all that it will start, into a group.

    Raises:
        OSError: the group is gone, or may not be entered.
    """
    for folder in folders:
        _write(f"{folder}/{_PROCESSES}", "0")


def members(folders: list[str]) -> list[int]:
    """Give the living processes of a group, and of groups that they have made below it."""
    found: set[int] = set()
    for folder in folders:
        for directory, _, _ in os.walk(folder):
            found.update(int(word) for word in _read(f"{directory}/{_PROCESSES}").split())
    return sorted(found)


def kill(folders: list[str]) -> None:
    """Kill every process of a group; where the kernel can, in one step that no fork outruns."""
    for folder in folders:
        try:
            _write(f"{folder}/cgroup.kill", "1")
        except OSError:
            # Version 1, or a kernel before 5.14: one by one, and the caller looks again.
            for pid in members([folder]):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def remove(folders: list[str]) -> bool:
    """Remove an empty group, and the tree that it was the last in; False when something still lives in it."""
    removed = True
    for folder in folders:
        for directory, _, _ in os.walk(folder, topdown=False):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                removed = False
        try:
            os.rmdir(os.path.dirname(folder))
        except OSError:
            continue
    return removed


def memory_kills(folders: list[str]) -> int | None:
    """Give how many processes of a group the kernel has killed for memory: its limit, or the machine's.

    None where nobody counts them.
    """
    places = [f"{folder}/{name}" for folder in folders for name in ("memory.events", "memory.oom_control")]
    return max((_number(place, "oom_kill") for place in places if os.path.exists(place)), default=None)


def refused_forks(folders: list[str]) -> int:
    """Give how often a process of a group could start no other, because of the group's limit."""
    return max((_number(f"{folder}/pids.events", "max") for folder in folders), default=0)


def _number(path: str, key: str) -> int:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    # Never made: a missing file means a controller that is not there.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)
