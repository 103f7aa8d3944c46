"""The parent of one attempt's processes: outlives the agent, keeps the limits, writes down how it ended.

Run as ``python -I -S shim.py STATE_DIRECTORY`` by ``runtime_process``. It imports a few modules of the
standard library, and of ours ``process_table`` only, so that an attempt costs about 10 MB. The starter
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

from runyard_agent.process_table import descendants, kill_all, memory_bytes, oom_kill_count, start_ticks

LOCK_FILE = "shim.lock"
PLAN_FILE = "plan.json"
IDENTITY_FILE = "shim.json"
PROGRAM_FILE = "program.json"
EXIT_FILE = "exit.json"
LEASE_FILE = "lease"

_PR_SET_CHILD_SUBREAPER = 36
_TICK_SECONDS = 1.0
_IDLE_SECONDS = 60.0
_OTHER_SECONDS_MAX = 10.0
# Background writers (tee in a process substitution) may finish after the shell: as long as this.
_LEFTOVER_SECONDS = 0.5
# Training makes way before the agent and the rest of the machine when memory runs out.
_OOM_SCORE_ADJUSTMENT = "300"
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
        self.started_at = 0.0
        self.last_output_at = 0.0
        self.output_bytes = 0
        self.lease_expires_at = 0.0
        self.ended_by = "itself"
        self.detail = ""
        self.kill_at: float | None = None
        self.oom_kills_at_start = 0

    def run(self) -> None:
        """Start the program, watch it, end what it leaves behind, and write the exit file."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        # Orphans of the program become our children: no process of the attempt can get out of sight.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.oom_kills_at_start = oom_kill_count()
        self._write_identity()
        _remove_plan()
        self.started_at = self.last_output_at = self.lease_expires_at = _now()
        self._start_program()
        _write_atomically(PROGRAM_FILE, {"session": self.child})
        os.write(self.ready_descriptor, b"+")
        os.close(self.ready_descriptor)
        while self.status is None:
            self._wait_for_news()
            if self.status is None:
                self._enforce_limits()
        ended_at = time.time()
        self._end_leftovers()
        self._write_exit(self.status, ended_at)

    def _write_identity(self) -> None:
        _write_atomically(IDENTITY_FILE, {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())})

    def _start_program(self) -> None:
        plan = self.plan
        output_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        streams = [
            os.open("/dev/null", os.O_RDONLY),
            os.open("stdout", output_flags, 0o600),
            os.open("stderr", output_flags, 0o600),
        ]
        self.child = os.fork()
        if self.child != 0:
            for descriptor in streams:
                os.close(descriptor)
            return
        program = plan["argv"][0]
        try:
            os.setsid()
            for target, descriptor in enumerate(streams):
                os.dup2(descriptor, target)
            _restore_signals()
            _make_way_when_memory_runs_out()
            os.chdir(plan["working_directory"])
            os.execve(program, plan["argv"], plan["environment"])  # noqa: S606
        except OSError as error:
            os.write(2, f"runyard: cannot run {program}: {error.strerror}\n".encode())
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)

    def _wait_for_news(self) -> None:
        news = signal.sigtimedwait(_WAITED_FOR, self._seconds_to_next_look())
        if news is not None and news.si_signo in _FORWARDED:
            kill_all(descendants(os.getpid()), news.si_signo)
        self._reap()

    def _seconds_to_next_look(self) -> float:
        plan = self.plan
        deadlines = [_now() + _IDLE_SECONDS]
        if self.kill_at is not None:
            deadlines.append(self.kill_at)
        if plan["time_limit_seconds"]:
            deadlines.append(self.started_at + plan["time_limit_seconds"])
        if plan["ends_on_lease_expiry"]:
            deadlines.append(self.lease_expires_at)
        if plan["no_output_timeout_seconds"]:
            deadlines.append(self.last_output_at + plan["no_output_timeout_seconds"])
        if plan["no_output_timeout_seconds"] or plan["memory_bytes_max"]:
            deadlines.append(_now() + _TICK_SECONDS)
        return max(min(deadlines) - _now(), 0.0)

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
        now = _now()
        plan = self.plan
        # A lease goes first and without grace: another attempt of the run may start at this very moment.
        if plan["ends_on_lease_expiry"] and now >= self.lease_expires_at:
            self.lease_expires_at = max(self.lease_expires_at, _lease_expiry())
            if now >= self.lease_expires_at:
                self._end(
                    "lease_expiry", "the lease ran out before the scheduler renewed it", grace_seconds=0
                )
                return
        if self.kill_at is not None:
            if now >= self.kill_at:
                kill_all(descendants(os.getpid()), signal.SIGKILL)
                self.kill_at = now + _TICK_SECONDS
            return
        grace_seconds = plan["stop_grace_seconds"]
        limit = plan["time_limit_seconds"]
        if limit and now >= self.started_at + limit:
            self._end("time_limit", f"ran for its time limit of {limit} s", grace_seconds)
            return
        timeout = plan["no_output_timeout_seconds"]
        if timeout and self._seconds_without_output(now) >= timeout:
            self._end("no_output_timeout", f"printed nothing for {timeout} s", grace_seconds)
            return
        memory_bytes_max = plan["memory_bytes_max"]
        if memory_bytes_max:
            used = memory_bytes(descendants(os.getpid()), memory_bytes_max)
            if used > memory_bytes_max:
                self._end("memory_limit", f"used {used} bytes of memory, limit {memory_bytes_max}", 0)

    def _seconds_without_output(self, now: float) -> float:
        written = os.stat("stdout").st_size + os.stat("stderr").st_size
        if written != self.output_bytes:
            self.output_bytes = written
            self.last_output_at = now
        return now - self.last_output_at

    def _end(self, ended_by: str, detail: str, grace_seconds: float) -> None:
        if self.ended_by == "itself":
            self.ended_by, self.detail = ended_by, detail
        # Decided once; only an expired lease may still cut the grace of another limit short.
        self.plan.update(time_limit_seconds=0, no_output_timeout_seconds=0, memory_bytes_max=0)
        if ended_by == "lease_expiry":
            self.plan["ends_on_lease_expiry"] = False
        kill_all(descendants(os.getpid()), signal.SIGTERM if grace_seconds else signal.SIGKILL)
        self.kill_at = _now() + (grace_seconds or _TICK_SECONDS)

    def _end_leftovers(self) -> None:
        patience_ends_at = _now() + (_LEFTOVER_SECONDS if self.ended_by == "itself" else 0.0)
        while True:
            self._reap()
            left = descendants(os.getpid())
            if not left:
                return
            if _now() >= patience_ends_at:
                kill_all(left, signal.SIGKILL)
            signal.sigtimedwait(_WAITED_FOR, 0.05)

    def _write_exit(self, status: int, ended_at: float) -> None:
        by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        exit_code = None if by_signal else os.WEXITSTATUS(status)
        killed = by_signal == signal.SIGKILL or exit_code == 128 + signal.SIGKILL
        oom_kills = oom_kill_count() - self.oom_kills_at_start
        oom_killed = self.ended_by == "memory_limit" or (
            killed and self.ended_by == "itself" and oom_kills > 0
        )
        detail = self.detail
        if oom_kills > 0 and not detail:
            detail = f"the kernel killed {oom_kills} process(es) on this machine meanwhile: out of memory"
        _write_atomically(
            EXIT_FILE,
            {
                "exit_code": exit_code,
                "signal": by_signal,
                "oom_killed": oom_killed,
                "ended_at_unix_milliseconds": round(ended_at * 1000),
                "ended_by": self.ended_by,
                "detail": detail,
                "is_known": True,
            },
        )


def _leave_it_to_the_other() -> int:
    deadline = _now() + _OTHER_SECONDS_MAX
    while not os.path.exists(IDENTITY_FILE):
        if _now() > deadline:
            return 1
        time.sleep(0.01)
    # Another shim has read its plan by now: this copy must not stay behind.
    _remove_plan()
    return 0


def _lease_expiry() -> float:
    try:
        with open(LEASE_FILE, encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return 0.0


def _now() -> float:
    """Seconds that never run backwards and go on while the machine is suspended, as in the lease file."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _remove_plan() -> None:
    if os.path.exists(PLAN_FILE):
        os.unlink(PLAN_FILE)


def _restore_signals() -> None:
    # Python ignores these two for itself; a program must find them as a shell would.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _make_way_when_memory_runs_out() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(_OOM_SCORE_ADJUSTMENT)
    except OSError:
        pass


def _leave_standard_streams() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open("shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, descriptor in ((0, null), (1, null), (2, log)):
        os.dup2(descriptor, target)


def _write_atomically(path: str, value: dict[str, object]) -> None:
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
    folder = os.open(".", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
