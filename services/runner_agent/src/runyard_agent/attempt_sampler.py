"""What one attempt uses of its machine: CPU, memory, disk and network, from /proc or from its cgroup.

A sample must cost less than a millisecond, so nothing here walks all processes or sums shared pages.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class HostSample:
    """One reading of one attempt. Counters run from the first sample of a process, from 0 for a container."""

    cpu_millicores: int
    """Since the last sample; since the start, the first time. 1000 is one core fully used."""
    memory_used_bytes: int
    """Resident memory. Pages that forked processes share count once for each without a cgroup."""
    disk_read_bytes: int
    disk_written_bytes: int
    network_received_bytes: int
    network_sent_bytes: int
    network_is_host: bool
    """True when the network counters are the machine's."""


@dataclass(frozen=True, slots=True)
class _Usage:
    """Absolute readings at one time."""

    cpu_seconds: float
    memory_bytes: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class _Process:
    """Readings of one process; ``start_ticks`` tells it from a later one with its pid."""

    pid: int
    start_ticks: int
    parent_pid: int
    is_zombie: bool
    """It has ended and was not waited for: it uses nothing, but its CPU time is nobody else's yet."""
    cpu_ticks: int
    """Its own and those of its children that ended and were waited for."""
    resident_bytes: int
    read_bytes: int
    """Also of children that ended and were waited for, like the next."""
    written_bytes: int

    @property
    def key(self) -> tuple[int, int]:
        """Tells it from all other processes of this boot."""
        return self.pid, self.start_ticks


class AttemptSampler:
    """Samples one attempt, again and again."""

    def __init__(self, *, in_container: bool, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        """Read the attempt's own cgroup when it is a container, the processes it is told otherwise."""
        self.network_start: tuple[int, int] | None = None
        """Bytes received and sent at the first sample, to count from; set where another agent took it."""
        self._in_container = in_container
        self._proc = proc
        self._cgroups = cgroups
        self._last_seconds = 0.0
        self._last_cpu_seconds = 0.0
        self._last_processes: Mapping[tuple[int, int], _Process] = {}
        self._read_bytes = 0
        self._written_bytes = 0
        self._inherited: dict[tuple[int, int], tuple[int, int]] = {}
        """Process -> read and written bytes of ended children: counted, and yet to be shown as its own."""

    def sample(self, pids: Sequence[int]) -> HostSample | None:
        """Read what these processes use now; None when all of them have ended."""
        processes = self._processes(pids)
        living = [process for process in processes if not process.is_zombie]
        if not living:
            return None
        now_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
        usage = self._cgroup_usage(living[0].pid) if self._in_container else None
        if usage is None:
            usage = self._usage_of(processes)
        since_seconds = self._last_seconds or min(p.start_ticks for p in processes) / _TICKS_PER_SECOND
        cpu_seconds = max(0.0, usage.cpu_seconds - self._last_cpu_seconds)
        self._last_seconds, self._last_cpu_seconds = now_seconds, usage.cpu_seconds
        # A process may be younger than a clock tick; CPU time is counted in ticks as well.
        interval_seconds = max(now_seconds - since_seconds, 1 / _TICKS_PER_SECOND)
        network_is_host, received, sent = self._network(living[0].pid)
        return HostSample(
            cpu_millicores=round(1000 * cpu_seconds / interval_seconds),
            memory_used_bytes=usage.memory_bytes,
            disk_read_bytes=usage.read_bytes,
            disk_written_bytes=usage.written_bytes,
            network_received_bytes=received,
            network_sent_bytes=sent,
            network_is_host=network_is_host,
        )

    def _processes(self, pids: Sequence[int]) -> list[_Process]:
        """Read these processes, and those of the last look that are still there: a list may miss one."""
        before, listed = self._last_processes, dict.fromkeys(pids)
        found = [_read_process(self._proc, pid) for pid in listed]
        missed = [_read_process(self._proc, pid) for pid, _ in before if pid not in listed]
        return [
            *(process for process in found if process is not None),
            *(process for process in missed if process is not None and process.key in before),
        ]

    def _usage_of(self, processes: Sequence[_Process]) -> _Usage:
        self._note_heirs(processes)
        for process in processes:
            last = self._last_processes.get(process.key)
            read = process.read_bytes - (last.read_bytes if last else 0)
            written = process.written_bytes - (last.written_bytes if last else 0)
            known_read, known_written = self._inherited.pop(process.key, (0, 0))
            self._read_bytes += max(0, read - known_read)
            self._written_bytes += max(0, written - known_written)
            # A child may not have been waited for yet; what has ended itself may show nothing any more.
            rest = max(0, known_read - read), max(0, known_written - written)
            if any(rest):
                self._inherited[process.key] = rest
        self._last_processes = {process.key: process for process in processes}
        return _Usage(
            cpu_seconds=sum(process.cpu_ticks for process in processes) / _TICKS_PER_SECOND,
            memory_bytes=sum(process.resident_bytes for process in processes),
            read_bytes=self._read_bytes,
            written_bytes=self._written_bytes,
        )

    def _note_heirs(self, processes: Sequence[_Process]) -> None:
        """Note whose counters will show what was counted of those that have ended since the last look.

        That is the nearest ancestor that is left: who waits for a child takes over what it took over itself.
        Of one that ignores its children's ends, as much of its own is not counted: too little, never double.
        """
        alive = {process.key for process in processes}
        last = {process.pid: process for process in self._last_processes.values()}
        for ended in last.values():
            if ended.key in alive:
                continue
            known_read, known_written = self._inherited.pop(ended.key, (0, 0))
            heir = last.get(ended.parent_pid)
            while heir is not None and heir.key not in alive:
                heir = last.get(heir.parent_pid)
            if heir is not None:
                read, written = self._inherited.get(heir.key, (0, 0))
                self._inherited[heir.key] = (
                    read + known_read + ended.read_bytes,
                    written + known_written + ended.written_bytes,
                )

    def _network(self, pid: int) -> tuple[bool, int, int]:
        network_is_host = True
        with contextlib.suppress(OSError):
            own = os.readlink(self._proc / "self/ns/net")
            network_is_host = os.readlink(self._proc / str(pid) / "ns/net") == own
        received, sent = _read_network(self._proc / ("self" if network_is_host else str(pid)) / "net/dev")
        if self.network_start is None:
            self.network_start = (received, sent) if network_is_host else (0, 0)
        received_before, sent_before = self.network_start
        return network_is_host, max(0, received - received_before), max(0, sent - sent_before)

    def _cgroup_usage(self, pid: int) -> _Usage | None:
        """Read the cgroup of a process; None when it is the machine's own or cannot be read."""
        try:
            paths = _cgroup_paths(_text(self._proc / str(pid) / "cgroup"))
            if "" in paths and paths[""] != "/" and (unified := self._unified(paths[""])) is not None:
                return unified
            if paths.get("memory", "/") == "/":
                return None
            return _read_cgroup_v1(self._cgroups, paths)
        except (OSError, ValueError, KeyError):
            return None

    def _unified(self, path: str) -> _Usage | None:
        directory = self._cgroups / path.lstrip("/")
        # On a machine with both versions the unified hierarchy has no controllers, so no such file.
        return _read_cgroup_v2(directory) if (directory / "memory.current").exists() else None


def container_pids(
    first_pid: int, container_id: str, *, proc: Path = PROC, cgroups: Path = CGROUPS
) -> Sequence[int]:
    """Give all pids of a container, its first process first; none when that process has ended."""
    try:
        paths = _cgroup_paths(_text(proc / str(first_pid) / "cgroup"))
    except OSError:
        return ()
    if not any(container_id in path for path in paths.values()):
        return ()
    found: set[int] = set()
    for controller in ("pids", "memory", ""):
        with contextlib.suppress(OSError, KeyError):
            directory = cgroups / controller / paths[controller].lstrip("/")
            found.update(map(int, _text(directory / "cgroup.procs").split()))
            break
    return (first_pid, *sorted(found - {first_pid}))


def _read_process(proc: Path, pid: int) -> _Process | None:
    try:
        # The command in parentheses may hold spaces and parentheses itself.
        fields = _text(proc / str(pid) / "stat").rpartition(")")[2].split()
        if fields[0] == "X":
            return None
        resident_pages = int(_text(proc / str(pid) / "statm").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    read_bytes, written_bytes = _read_process_io(proc / str(pid) / "io")
    return _Process(
        pid=pid,
        start_ticks=int(fields[19]),
        parent_pid=int(fields[1]),
        is_zombie=fields[0] == "Z",
        cpu_ticks=sum(map(int, fields[11:15])),
        resident_bytes=resident_pages * _PAGE_BYTES,
        read_bytes=read_bytes,
        written_bytes=written_bytes,
    )


def _read_process_io(path: Path) -> tuple[int, int]:
    try:
        values = _keyed(_text(path).replace(":", ""))
    except OSError:
        # Somebody else's process, or the kernel does not account.
        return 0, 0
    return values.get("read_bytes", 0), values.get("write_bytes", 0)


def _read_network(path: Path) -> tuple[int, int]:
    received = sent = 0
    with contextlib.suppress(OSError):
        for line in _text(path).splitlines()[2:]:
            interface, _, counters = line.partition(":")
            if interface.strip() != "lo":
                fields = counters.split()
                received += int(fields[0])
                sent += int(fields[8])
    return received, sent


def _cgroup_paths(text: str) -> dict[str, str]:
    """Read /proc/PID/cgroup: controller -> path; the unified hierarchy's controller is ""."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _read_cgroup_v2(directory: Path) -> _Usage:
    read_bytes = written_bytes = 0
    with contextlib.suppress(OSError):
        for line in _text(directory / "io.stat").splitlines():
            values = dict(field.split("=", 1) for field in line.split()[1:])
            read_bytes += int(values.get("rbytes", 0))
            written_bytes += int(values.get("wbytes", 0))
    cache_bytes = _keyed(_text(directory / "memory.stat")).get("inactive_file", 0)
    return _Usage(
        cpu_seconds=_keyed(_text(directory / "cpu.stat"))["usage_usec"] / 1e6,
        memory_bytes=max(0, int(_text(directory / "memory.current")) - cache_bytes),
        read_bytes=read_bytes,
        written_bytes=written_bytes,
    )


def _read_cgroup_v1(cgroups: Path, paths: Mapping[str, str]) -> _Usage:
    memory = cgroups / "memory" / paths["memory"].lstrip("/")
    cpu = cgroups / "cpuacct" / paths["cpuacct"].lstrip("/")
    read_bytes = written_bytes = 0
    with contextlib.suppress(OSError, KeyError):
        disk = cgroups / "blkio" / paths["blkio"].lstrip("/")
        for line in _text(disk / "blkio.throttle.io_service_bytes_recursive").splitlines():
            fields = line.split()
            read_bytes += int(fields[2]) if fields[1] == "Read" else 0
            written_bytes += int(fields[2]) if fields[1] == "Write" else 0
    cache_bytes = _keyed(_text(memory / "memory.stat")).get("total_inactive_file", 0)
    return _Usage(
        cpu_seconds=int(_text(cpu / "cpuacct.usage")) / 1e9,
        memory_bytes=max(0, int(_text(memory / "memory.usage_in_bytes")) - cache_bytes),
        read_bytes=read_bytes,
        written_bytes=written_bytes,
    )


def _keyed(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def _text(path: Path) -> str:
    # Ten files a sample: without the layers of open() each costs a third.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(descriptor, 1 << 16):
            chunks.append(chunk)
    finally:
        os.close(descriptor)
    return b"".join(chunks).decode("utf-8", "replace")
