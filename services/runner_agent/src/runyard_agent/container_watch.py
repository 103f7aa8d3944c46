"""Holds the limits of one container while the agent may be dead: its times, and its lease.

Run as ``python -I -S container_watch.py STATE_DIRECTORY [--stay]`` by ``watch_start``, in a session of its
own, or as the first process of a container of its own. Like the shim it imports little, and of ours one small
module. It waits for the container's first process without polling, kills through the daemon's socket, and
writes ``watch-end.json`` before it does.
An exclusive lock on ``watch.lock``, held for life, makes sure that there is one for a container.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import sys
import time

if __name__ == "__main__":
    # Isolated, it would not find our own package; at the end, nothing there hides the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from runyard_agent.disk_use import DiskWatch

LOCK_FILE = "watch.lock"
PLAN_FILE = "watch.json"
END_FILE = "watch-end.json"
STAY = "--stay"

_TICK_SECONDS = 1.0
_IDLE_SECONDS = 60.0
_START_SECONDS_MAX = 300.0
_DAEMON_SECONDS_MAX = 30.0


def main(state_directory: str, *, stays: bool = False) -> int:
    """Watch the container of this folder until its end; in the background, unless it ``stays``."""
    os.chdir(state_directory)
    lock = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    with open(PLAN_FILE, encoding="utf-8") as file:
        watch = Watch(json.load(file))
    if not stays:
        if os.fork() != 0:
            return 0
        os.setsid()
    pid = watch.wait_for_start()
    if pid:
        watch.run(pid)
    return 0


class Watch:
    """One container, from before its start to its end."""

    def __init__(self, plan: dict) -> None:  # type: ignore[type-arg]
        """Take the limits."""
        self.plan = plan
        self.started_at = 0.0
        self.last_output_at = 0.0
        self.output_bytes = 0
        self.kill_at: float | None = None
        self.disk = DiskWatch(plan)

    def wait_for_start(self) -> int:
        """Give the pid of the container's first process; 0 when it never ran or has ended."""
        gives_up_at = _now() + _START_SECONDS_MAX
        while _now() < gives_up_at:
            status, body = self._ask("GET", "json")
            if status == 404:
                return 0
            if status == 200:
                found = json.loads(body)
                state = found["State"]
                if state["Running"]:
                    self.disk.watch_too(_own_layer(found))
                    return int(state["Pid"])
                if state["Status"] in ("exited", "dead", "removing"):
                    return 0
            time.sleep(0.1)
        return 0

    def run(self, pid: int) -> None:
        """Hold the limits until the process has ended."""
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        # The process's own start: the limit counts from there also for a watch that was started again.
        self.started_at = _start_seconds(pid)
        self.last_output_at = _now()
        poll = select.poll()
        poll.register(process, select.POLLIN)
        while not poll.poll(1000 * self._seconds_to_next_look()):
            self._enforce_limits()

    def _seconds_to_next_look(self) -> float:
        plan = self.plan
        deadlines = [_now() + _IDLE_SECONDS]
        if self.kill_at is not None:
            deadlines.append(self.kill_at)
        if plan["time_limit_seconds"]:
            deadlines.append(self.started_at + plan["time_limit_seconds"])
        if plan["ends_on_lease_expiry"]:
            deadlines.append(_lease_expiry())
        if plan["no_output_timeout_seconds"]:
            deadlines.append(_now() + _TICK_SECONDS)
        if plan["disk_bytes_max"]:
            deadlines.append(self.disk.look_at)
        return max(min(deadlines) - _now(), 0.01)

    def _enforce_limits(self) -> None:
        plan = self.plan
        now = _now()
        # A lease goes first and without grace: another attempt of the run may start at this very moment.
        if plan["ends_on_lease_expiry"] and now >= _lease_expiry():
            self._end("lease_expiry", "the lease ran out before the scheduler renewed it", 0)
            plan["ends_on_lease_expiry"] = False
            return
        if self.kill_at is not None:
            if now >= self.kill_at:
                self._signal("SIGKILL")
                self.kill_at = now + _TICK_SECONDS
            return
        limit = plan["time_limit_seconds"]
        if limit and now >= self.started_at + limit:
            self._end("time_limit", f"ran for its time limit of {limit} s", plan["stop_grace_seconds"])
            return
        timeout = plan["no_output_timeout_seconds"]
        if timeout and self._seconds_without_output(now) >= timeout:
            self._end("no_output_timeout", f"printed nothing for {timeout} s", plan["stop_grace_seconds"])
            return
        if plan["disk_bytes_max"] and now >= self.disk.look_at and (detail := self.disk.excess()):
            self._end("disk_limit", detail, plan["stop_grace_seconds"])

    def _seconds_without_output(self, now: float) -> float:
        written = os.stat("stdout").st_size + os.stat("stderr").st_size
        if written != self.output_bytes:
            self.output_bytes = written
            self.last_output_at = now
        return now - self.last_output_at

    def _end(self, ended_by: str, detail: str, grace_seconds: float) -> None:
        if self.kill_at is None:
            _write_atomically(END_FILE, {"ended_by": ended_by, "detail": detail})
        # Decided once; only an expired lease may still cut the grace of another limit short.
        self.plan.update(time_limit_seconds=0, no_output_timeout_seconds=0, disk_bytes_max=0)
        self._signal("SIGTERM" if grace_seconds else "SIGKILL")
        self.kill_at = _now() + (grace_seconds or _TICK_SECONDS)

    def _signal(self, name: str) -> None:
        self._ask("POST", f"kill?signal={name}")

    def _ask(self, method: str, what: str) -> tuple[int, bytes]:
        """Send a request about the container to the daemon; status 0 when it does not answer."""
        request = (
            f"{method} /v1.41/containers/{self.plan['container_id']}/{what} HTTP/1.0\r\nHost: docker\r\n\r\n"
        )
        answer = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_DAEMON_SECONDS_MAX)
                connection.connect(self.plan["docker_socket"])
                connection.sendall(request.encode())
                while chunk := connection.recv(1 << 16):
                    answer += chunk
            head, _, body = answer.partition(b"\r\n\r\n")
            return int(head.split(None, 2)[1]), body
        except (OSError, IndexError, ValueError):
            return 0, b""


def _own_layer(container: dict) -> str:  # type: ignore[type-arg]
    """Give the folder of what the container writes outside its mounts; empty where nobody says."""
    data = (container.get("GraphDriver") or {}).get("Data") or {}
    return str(data.get("UpperDir") or "")


def _lease_expiry() -> float:
    """Give until when the container may run, on the clock of ``_now``; at once when nobody says."""
    try:
        with open("lease", encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return 0.0


def _start_seconds(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return _now()
    return ticks / os.sysconf("SC_CLK_TCK")


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _write_atomically(name: str, content: dict) -> None:  # type: ignore[type-arg]
    with open(name + ".new", "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(name + ".new", name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], stays=STAY in sys.argv[2:]))
