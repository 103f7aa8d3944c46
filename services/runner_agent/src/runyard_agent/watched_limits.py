"""The limits of one attempt that are held by looking again and again: its lease, its times, its disk.

The shim and the container watch import it: the standard library only, and little of it. Both work in the
folder with the attempt's ``stdout``, ``stderr`` and ``lease``.
"""

from __future__ import annotations

import os
import time

from runyard_agent.disk_use import DiskWatch

LEASE_FILE = "lease"
TICK_SECONDS = 1.0
"""Between two looks at what nothing else tells of."""

_IDLE_SECONDS = 60.0

Excess = tuple[str, str, float]
"""By what an attempt is ended (``EndedBy``), in words, and the seconds of grace that it gets."""


class WatchedLimits:
    """What the plan of one attempt permits, and how far it has got."""

    def __init__(self, plan: dict) -> None:  # type: ignore[type-arg]
        """Take the limits of a plan; 0 is none.

        They are ``time_limit_seconds``, ``no_output_timeout_seconds``, ``stop_grace_seconds``,
        ``ends_on_lease_expiry``, and what ``DiskWatch`` takes.
        """
        self._plan = plan
        self._holds_lease: bool = plan["ends_on_lease_expiry"]
        self._holds_rest = True
        self._started_at = self._last_output_at = self._lease_expires_at = now()
        self._output_bytes = 0
        self.disk = DiskWatch(plan)

    def begin(self, started_at: float) -> None:
        """Count from the program's start, on the clock of ``now``."""
        self._started_at = started_at
        self._last_output_at = now()

    def next_look_at(self) -> float:
        """Give when the next limit can be passed, on the clock of ``now``; within a minute."""
        plan = self._plan
        due = [now() + _IDLE_SECONDS]
        if self._holds_lease:
            due.append(self._lease_expires_at)
        if self._holds_rest:
            if plan["time_limit_seconds"]:
                due.append(self._started_at + plan["time_limit_seconds"])
            if plan["no_output_timeout_seconds"]:
                due.append(now() + TICK_SECONDS)
            if plan["disk_bytes_max"]:
                due.append(self.disk.look_at)
        return min(due)

    def lease_excess(self) -> Excess | None:
        """Say that the lease ran out. Ask it first: another attempt may start at this very moment."""
        if not self._holds_lease or now() < self._lease_expires_at:
            return None
        self._lease_expires_at = max(self._lease_expires_at, _lease_expiry())
        if now() < self._lease_expires_at:
            return None
        self._holds_lease = self._holds_rest = False
        return "lease_expiry", "the lease ran out before the scheduler renewed it", 0.0

    def time_excess(self) -> Excess | None:
        """Say that it ran, or was silent, for too long."""
        grace_seconds = self._plan["stop_grace_seconds"]
        limit = self._plan["time_limit_seconds"]
        if self._holds_rest and limit and now() >= self._started_at + limit:
            return self._ended("time_limit", f"ran for its time limit of {limit} s", grace_seconds)
        timeout = self._plan["no_output_timeout_seconds"]
        if self._holds_rest and timeout and self._silent_seconds() >= timeout:
            return self._ended("no_output_timeout", f"printed nothing for {timeout} s", grace_seconds)
        return None

    def disk_excess(self) -> Excess | None:
        """Say that it took too much of the disk, when it is time to look."""
        if not self._holds_rest or not self._plan["disk_bytes_max"] or now() < self.disk.look_at:
            return None
        detail = self.disk.excess()
        return self._ended("disk_limit", detail, self._plan["stop_grace_seconds"]) if detail else None

    def lift(self) -> None:
        """Hold no more than the lease, which alone may cut short the grace that another limit gave."""
        self._holds_rest = False

    def _ended(self, ended_by: str, detail: str, grace_seconds: float) -> Excess:
        self.lift()
        return ended_by, detail, grace_seconds

    def _silent_seconds(self) -> float:
        written = os.stat("stdout").st_size + os.stat("stderr").st_size
        if written != self._output_bytes:
            self._output_bytes = written
            self._last_output_at = now()
        return now() - self._last_output_at


def now() -> float:
    """Seconds that never run backwards and go on while the machine is suspended, as in the lease file."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _lease_expiry() -> float:
    """Give until when it may run; at once when nobody says."""
    try:
        with open(LEASE_FILE, encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return 0.0
