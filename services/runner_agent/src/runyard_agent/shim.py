"""The parent of one attempt's processes: outlives the agent, keeps the limits, writes down how it ended.

Run as ``python -I -S shim.py STATE_DIRECTORY`` by ``runtime_process``. It imports a few modules of the
standard library, and of ours small ones, so that an attempt costs about 10 MB. The starter
forks and returns when the program runs; the shim itself has its own session and no tie to the agent.

It reads ``plan.json`` (and removes it: it may hold secrets), writes ``shim.json`` (which process it is),
``program.json`` (the program's session) and ``exit.json`` (how the program ended). An exclusive lock on
``shim.lock``, held for life, and ``shim.json`` itself make sure that one attempt is started at most once,
however often a shim is asked to.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
import time

if __name__ == "__main__":
    # Isolated, it would not find our own package; at the end, nothing there hides the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from runyard_agent import control_group
from runyard_agent.process_table import (
    boot_id,
    descendants,
    end_all,
    kill_all,
    memory_bytes,
    oom_kill_count,
    start_ticks,
)
from runyard_agent.reserved_files import reserve, write_atomically
from runyard_agent.shim_child import become_program
from runyard_agent.watched_limits import TICK_SECONDS, WatchedLimits, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runyard_agent.watched_limits import Excess

LOCK_FILE = "shim.lock"
PLAN_FILE = "plan.json"
IDENTITY_FILE = "shim.json"
PROGRAM_FILE = "program.json"
EXIT_FILE = "exit.json"

_PR_SET_CHILD_SUBREAPER = 36
_OTHER_SECONDS_MAX = 10.0
# Background writers (tee in a process substitution) may finish after the shell: as long as this.
_LEFTOVER_SECONDS = 0.5
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WAITED_FOR = (signal.SIGCHLD, *_FORWARDED)


def main(state_directory: str) -> int:
    """Start the attempt of this folder unless it was started before; return when its program runs."""
    os.chdir(state_directory)
    lock = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _leave_it_to_the_other()
    if os.path.exists(IDENTITY_FILE):
        return _leave_it_to_the_other()
    ready_end, shim_end = os.pipe()
    if os.fork() != 0:
        os.close(shim_end)
        # Nothing comes when the shim died before its program ran; its reason is in shim.log.
        return 0 if os.read(ready_end, 1) else 1
    os.close(ready_end)
    os.setsid()
    _leave_standard_streams()
    Shim(shim_end).run()
    os._exit(0)


class Shim:
    """One program, from its start to its exit file."""

    def __init__(self, ready_descriptor: int) -> None:
        """Read the plan; ``ready_descriptor`` gets a byte as soon as the program runs."""
        with open(PLAN_FILE, encoding="utf-8") as file:
            self.plan = json.load(file)
        self.ready_descriptor = ready_descriptor
        self.child = 0
        self.status: int | None = None
        self.ended_by = "itself"
        self.detail = ""
        self.oom_killed = False
        self.kill_at: float | None = None
        self.oom_kills_at_start = 0
        self.limits = WatchedLimits(self.plan)
        self.groups: list[str] = self.plan["groups"]
        """Folders of the attempt's control group; none where this machine gives it none."""

    def run(self) -> None:
        """Start the program, watch it, end what it leaves behind, and write the exit file."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        # Orphans of the program become our children: no process of the attempt can get out of sight.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.oom_kills_at_start = oom_kill_count()
        self._write_identity()
        _remove_plan()
        self.limits.begin(now())
        reserve(EXIT_FILE)
        self._start_program()
        while self.status is None:
            self._wait_for_news()
            if self.status is None:
                self._enforce_limits()
        ended_at = time.time()
        self._end_leftovers()
        self._write_exit(self.status, ended_at)
        control_group.remove(self.groups)

    def _write_identity(self) -> None:
        write_atomically(IDENTITY_FILE, {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())})

    def _start_program(self) -> None:
        """Fork the program, and let it begin once it is written down which one it is."""
        output_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        streams = [
            os.open("/dev/null", os.O_RDONLY),
            os.open("stdout", output_flags, 0o600),
            os.open("stderr", output_flags, 0o600),
        ]
        its_end, our_end = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.close(our_end)
            # Before that byte it might stop or kill us, and nobody would know that it runs.
            if not os.read(its_end, 1):
                os._exit(126)
            become_program(self.plan, streams)
        for descriptor in (*streams, its_end):
            os.close(descriptor)
        # Numbers of processes say something only together with the life of the machine that they are of.
        program = {"session": self.child, "start_ticks": start_ticks(self.child), "boot_id": boot_id()}
        write_atomically(PROGRAM_FILE, program)
        os.write(self.ready_descriptor, b"+")
        os.close(self.ready_descriptor)
        os.write(our_end, b"+")
        os.close(our_end)

    def _pids(self) -> list[int]:
        """Give every process of the attempt; those that left our sight by our death are in the group."""
        return list({*descendants(os.getpid()), *control_group.members(self.groups)})

    def _kill(self) -> None:
        control_group.kill(self.groups)
        end_all(self._pids)

    def _wait_for_news(self) -> None:
        news = signal.sigtimedwait(_WAITED_FOR, self._seconds_to_next_look())
        if news is not None and news.si_signo in _FORWARDED:
            kill_all(self._pids(), news.si_signo)
        self._reap()

    def _seconds_to_next_look(self) -> float:
        look_at = self.limits.next_look_at()
        if self.kill_at is not None:
            look_at = min(look_at, self.kill_at)
        elif self.plan["watched_memory_bytes_max"] or self.plan["watched_processes_max"]:
            look_at = min(look_at, now() + TICK_SECONDS)
        return max(look_at - now(), 0.0)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.child:
                self.status = status

    def _enforce_limits(self) -> None:
        if excess := self.limits.lease_excess():
            self._end(excess)
        elif self.kill_at is not None:
            if now() >= self.kill_at:
                self._kill()
                self.kill_at = now() + TICK_SECONDS
        elif excess := self.limits.time_excess() or self._use_excess() or self.limits.disk_excess():
            self._end(excess)

    def _use_excess(self) -> Excess | None:
        """Hold what no control group holds, by looking: memory and processes."""
        memory_bytes_max = self.plan["watched_memory_bytes_max"]
        processes_max = self.plan["watched_processes_max"]
        if not memory_bytes_max and not processes_max:
            return None
        pids = self._pids()
        used = memory_bytes(pids, memory_bytes_max) if memory_bytes_max else 0
        if used > memory_bytes_max:
            return "memory_limit", f"used {used} bytes of memory, limit {memory_bytes_max}", 0.0
        if processes_max and len(pids) > processes_max:
            return "process_limit", f"had {len(pids)} processes, limit {processes_max}", 0.0
        return None

    def _end(self, excess: Excess) -> None:
        ended_by, detail, grace_seconds = excess
        # Decided once.
        if self.ended_by == "itself":
            self.ended_by, self.detail = ended_by, detail
        self.limits.lift()
        if grace_seconds:
            kill_all(self._pids(), signal.SIGTERM)
        else:
            self._kill()
        self.kill_at = now() + (grace_seconds or TICK_SECONDS)

    def _end_leftovers(self) -> None:
        patience_ends_at = now() + (_LEFTOVER_SECONDS if self.ended_by == "itself" else 0.0)
        while True:
            self._reap()
            if not self._pids():
                return
            if now() >= patience_ends_at:
                self._kill()
            signal.sigtimedwait(_WAITED_FOR, 0.05)

    def _write_exit(self, status: int, ended_at: float) -> None:
        by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        exit_code = None if by_signal else os.WEXITSTATUS(status)
        killed = by_signal == signal.SIGKILL or exit_code == 128 + signal.SIGKILL
        self._explain_memory(killed=killed and self.ended_by == "itself", failed=status != 0)
        refused_forks = control_group.refused_forks(self.groups)
        if refused_forks and not self.detail:
            self.detail = f"could start no process, {refused_forks} times: limit {self.plan['processes_max']}"
        content: dict[str, object] = {
            "exit_code": exit_code,
            "signal": by_signal,
            "oom_killed": self.oom_killed,
            "ended_at_unix_milliseconds": round(ended_at * 1000),
            "ended_by": self.ended_by,
            "detail": self.detail,
            "is_known": True,
        }
        while True:
            try:
                return write_atomically(EXIT_FILE, content)
            except OSError as error:
                # Nobody else knows how it ended; a full disk does not stay full for ever.
                os.write(2, f"cannot write {EXIT_FILE}: {error}\n".encode())
                time.sleep(TICK_SECONDS)

    def _explain_memory(self, *, killed: bool, failed: bool) -> None:
        """Say what memory had to do with the end; ``killed`` says that nobody else ended it."""
        limit = self.plan["memory_bytes_max"]
        in_group = control_group.memory_kills(self.groups)
        # Of the machine only where nobody counts ours: in days some other program may have run out of memory.
        on_machine = oom_kill_count() - self.oom_kills_at_start if in_group is None else 0
        if killed and in_group and limit:
            self.ended_by, self.detail = (
                "memory_limit",
                f"used more memory than its limit of {limit} bytes",
            )
        self.oom_killed = self.ended_by == "memory_limit" or (killed and bool(in_group or on_machine))
        if self.detail:
            return
        if in_group and limit:
            self.detail = f"{in_group} of its processes were killed: limit of {limit} bytes of memory"
        elif in_group:
            self.detail = f"the kernel killed {in_group} of its processes: the machine's memory ran out"
        elif on_machine > 0 and failed:
            self.detail = (
                f"the kernel killed {on_machine} process(es) of this machine meanwhile: out of memory"
            )


def _leave_it_to_the_other() -> int:
    deadline = now() + _OTHER_SECONDS_MAX
    while not os.path.exists(IDENTITY_FILE):
        if now() > deadline:
            return 1
        time.sleep(0.01)
    # Another shim has read its plan by now: this copy must not stay behind.
    _remove_plan()
    return 0


def _remove_plan() -> None:
    if os.path.exists(PLAN_FILE):
        os.unlink(PLAN_FILE)


def _leave_standard_streams() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open("shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, descriptor in ((0, null), (1, null), (2, log)):
        os.dup2(descriptor, target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
