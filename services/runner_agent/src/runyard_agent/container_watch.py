"""Holds the limits of one container while the agent may be dead: its times, and its lease.

Run as ``python -I -S container_watch.py STATE_DIRECTORY [--stay]`` by ``watch_start``, in a session of its
own, or as the first process of a container of its own. Like the shim it imports little, and of ours small
modules. It waits for the container's first process without polling, kills through the daemon's socket, and
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

from runyard_agent.reserved_files import write_atomically
from runyard_agent.watched_limits import TICK_SECONDS, WatchedLimits, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runyard_agent.watched_limits import Excess

LOCK_FILE = "watch.lock"
PLAN_FILE = "watch.json"
END_FILE = "watch-end.json"
STAY = "--stay"

_LOOK_SECONDS_MIN = 0.01
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
        self.kill_at: float | None = None
        self.limits = WatchedLimits(plan)

    def wait_for_start(self) -> int:
        """Give the pid of the container's first process; 0 when it never ran or has ended."""
        gives_up_at = now() + _START_SECONDS_MAX
        while now() < gives_up_at:
            status, body = self._ask("GET", "json")
            if status == 404:
                return 0
            if status == 200:
                found = json.loads(body)
                state = found["State"]
                if state["Running"]:
                    self.limits.disk.watch_too(_own_layer(found))
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
        self.limits.begin(_start_seconds(pid))
        poll = select.poll()
        poll.register(process, select.POLLIN)
        while not poll.poll(1000 * self._seconds_to_next_look()):
            self._enforce_limits()

    def _seconds_to_next_look(self) -> float:
        look_at = self.limits.next_look_at()
        if self.kill_at is not None:
            look_at = min(look_at, self.kill_at)
        return max(look_at - now(), _LOOK_SECONDS_MIN)

    def _enforce_limits(self) -> None:
        if excess := self.limits.lease_excess():
            self._end(excess)
        elif self.kill_at is not None:
            if now() >= self.kill_at:
                self._signal("SIGKILL")
                self.kill_at = now() + TICK_SECONDS
        elif excess := self.limits.time_excess() or self.limits.disk_excess():
            self._end(excess)

    def _end(self, excess: Excess) -> None:
        ended_by, detail, grace_seconds = excess
        # Decided once.
        if self.kill_at is None:
            write_atomically(END_FILE, {"ended_by": ended_by, "detail": detail})
        self._signal("SIGTERM" if grace_seconds else "SIGKILL")
        self.kill_at = now() + (grace_seconds or TICK_SECONDS)

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


def _start_seconds(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return now()
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], stays=STAY in sys.argv[2:]))
