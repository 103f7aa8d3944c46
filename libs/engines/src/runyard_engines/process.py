"""One child process: started, watched, stopped and always reaped, never outliving the one who started it.

It belongs to no event loop, so that one loop may start it and another stop it (the tests do).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runyard_core.errors import Unavailable
from runyard_engines import launch

LAUNCHER = Path(launch.__file__)
POLL_SECONDS = 0.02
PORT_TAKEN = re.compile(r"address already in use|port \d+ .*is not available", re.IGNORECASE)
"""How PostgreSQL, NATS and SeaweedFS say it when another process was faster than our own check."""


class EngineFailed(Unavailable):
    """A child process ended or stayed silent when it should have become ready. Names its last log lines."""

    default_code = "ENGINE_FAILED"


class PortInUse(EngineFailed):
    """Somebody else listens on a port that an engine was told to use."""

    default_code = "PORT_IN_USE"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run and how to end it."""

    name: str
    argv: tuple[str, ...]
    log_path: Path
    """Standard output and error are appended here."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of the parent."""
    directory: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    """Asks for an orderly end, by ``stop`` and at the parent's death."""
    stop_seconds_max: float = 10.0
    """After this the whole process group is killed."""
    uid: int = launch.KEEP_UID
    """User (and group) to run as; only root may change it."""
    survives_parent: bool = False
    """True: the parent's death is no reason to end."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process id that cannot be mistaken for a later process with the same number."""

    pid: int
    started_ticks: int

    def is_alive(self) -> bool:
        """Tell whether this very process still runs; a zombie does not."""
        return started_ticks(self.pid) == self.started_ticks


class ChildProcess:
    """A started process. Make it with ``ChildProcess.start``."""

    def __init__(self, spec: ProcessSpec, popen: subprocess.Popen[bytes]) -> None:
        self.spec = spec
        self._popen = popen

    @classmethod
    def start(cls, spec: ProcessSpec) -> ChildProcess:
        """Start the process in a session of its own.

        Call it from the main thread: the kernel ends the child when the thread that started it ends.

        Raises:
            OSError: the log file or the program's folder cannot be opened.
        """
        spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        argv: tuple[str, ...] = spec.argv
        if not spec.survives_parent:
            wish = (str(os.getpid()), str(int(spec.stop_signal)), str(spec.uid))
            argv = (sys.executable, "-I", "-S", str(LAUNCHER), *wish, *argv)
        with spec.log_path.open("ab", buffering=0) as log:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=spec.directory,
                env={**os.environ, **spec.environment},
                start_new_session=True,
            )
        return cls(spec, popen)

    @property
    def pid(self) -> int:
        """Give the process id, which is also the id of its group and session."""
        return self._popen.pid

    @property
    def identity(self) -> ProcessIdentity | None:
        """Give the identity to write down, or None when the process has ended."""
        ticks = started_ticks(self.pid)
        return None if ticks is None else ProcessIdentity(self.pid, ticks)

    def exit_code(self) -> int | None:
        """Give the exit status (negative: ended by that signal), or None while it runs; reaps."""
        return self._popen.poll()

    async def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end and reap; None when it still runs after ``timeout`` seconds."""
        if self._popen.poll() is None:
            await wait_for_exit(self.pid, timeout)
        return self._popen.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself; nothing happens when it has ended."""
        self._popen.send_signal(number)

    async def stop(self) -> int:
        """Ask it to end, kill its group when it does not in time, and give its exit status."""
        self.send_signal(self.spec.stop_signal)
        code = await self.wait(self.spec.stop_seconds_max)
        if code is None:
            self.kill()
            code = await self.wait()
        return self._popen.wait() if code is None else code

    def kill(self) -> None:
        """Kill the process and whatever is left of its group, at once."""
        if self._popen.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def last_lines(self, count: int = 20) -> list[str]:
        """Give the last lines of its log."""
        return tail(self.spec.log_path, count)

    def failed(self, what: str) -> EngineFailed:
        """Make the error that says what went wrong, with the last log lines as detail."""
        lines = self.last_lines()
        said = f": {lines[-1].strip()}" if lines else ""
        error = PortInUse if any(PORT_TAKEN.search(line) for line in lines) else EngineFailed
        return error(
            f"{self.spec.name} {what}{said} (log: {self.spec.log_path})",
            metadata={"engine": self.spec.name, "last_lines": "\n".join(lines)},
        )


async def wait_for_exit(pid: int, timeout: float | None = None) -> bool:
    """Wait until a process, ours or not, has ended; False after ``timeout`` seconds. Does not reap."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:  # kernels before 5.3 and some sandboxes have no such call
        return await _poll_for_exit(pid, timeout)
    try:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(descriptor, _settle, ended)
        try:
            # Not wait_for: before Python 3.12 it may swallow a cancellation that comes with the answer.
            async with asyncio.timeout(timeout):
                await ended
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)
    return True


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


async def _poll_for_exit(pid: int, timeout: float | None) -> bool:
    deadline = None if timeout is None else time.monotonic() + timeout
    while started_ticks(pid) is not None:
        if deadline is not None and time.monotonic() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def started(process: ChildProcess | None) -> ChildProcess:
    """Give the process of something that must have been started.

    Raises:
        RuntimeError: it was not: a mistake of the caller.
    """
    if process is None:
        raise RuntimeError("start it before you wait for it")
    return process


def started_ticks(pid: int) -> int | None:
    """Give the start time of a process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, so count the fields after its end.
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    return None if state in {"Z", "X"} else int(fields[18])


def tail(path: Path, count: int) -> list[str]:
    """Give the last lines of a text file, of its last 64 KiB at most; nothing when it is missing."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65536))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
