"""Looks at the machine's processes and memory through ``/proc``, with the standard library alone.

The shim imports it too, in an interpreter that knows nothing else of ours: nothing may be imported here
that costs memory.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LOOKS_MAX = 50


def all_pids() -> list[int]:
    """Give the pid of every process that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(pid: int) -> list[str]:
    """Give what a process was started with; nothing when it is gone or has none."""
    try:
        return _read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
    except OSError:
        return []


def descendants(root: int) -> list[int]:
    """Give the pids of all living descendants of a process, nearest first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        fields = _stat_fields(int(name))
        if fields is not None and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def session_members(session: int) -> list[int]:
    """Give the pids of all living processes of a session, and of their descendants."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        fields = _stat_fields(int(name)) if name.isdigit() else None
        if fields is not None and fields[0] != "Z" and int(fields[3]) == session:
            found += [int(name), *descendants(int(name))]
    return found


def kill_all(pids: list[int], signal_number: int) -> None:
    """Send a signal to each of these processes that is still there and may be signalled."""
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except (ProcessLookupError, PermissionError):
            continue


def end_all(find: Callable[[], list[int]]) -> None:
    """Kill every process that is found, also those that fork faster than anybody can look.

    All are stopped first, until nobody new is found: what is stopped starts no other.
    """
    stopped: set[int] = set()
    for _ in range(_LOOKS_MAX):
        new = [pid for pid in find() if pid not in stopped]
        if not new:
            break
        kill_all(new, signal.SIGSTOP)
        stopped.update(new)
    kill_all(list(stopped), signal.SIGKILL)


def in_view_of(folder: str) -> list[int]:
    """Give the processes whose private view shows them this folder: those of one attempt, and no others."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and f"{folder} /" in _read(f"/proc/{name}/mountinfo"):
                found.append(int(name))
        except OSError:
            continue
    return found


def boot_id() -> str:
    """Name the machine's life since its last start."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def is_stopped(pid: int) -> bool:
    """Say whether somebody has stopped a process (SIGSTOP), so that it does nothing until it is continued."""
    fields = _stat_fields(pid)
    return fields is not None and fields[0] == "T"


def start_ticks(pid: int) -> int:
    """Give when a process started, in clock ticks since boot; 0 when there is no such process."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields is not None else 0


def _stat_fields(pid: int) -> list[str] | None:
    """Fields 3 (state), 4 (parent) and on of /proc/<pid>/stat; the name before them may hold anything.

    None of a process that is gone, or that is another user's and not for us to see (``hidepid``).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def memory_bytes(pids: list[int], enough: int) -> int:
    """Give resident memory; when that is more than ``enough``, count pages that processes share only once."""
    resident = sum(_kilobytes(f"/proc/{pid}/status", "VmRSS:") for pid in pids) * 1024
    if resident <= enough:
        return resident
    return sum(_kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids) * 1024


def _kilobytes(path: str, key: str) -> int:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(key):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def oom_kill_count() -> int:
    """Give how many processes the kernel has killed for memory since boot."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
