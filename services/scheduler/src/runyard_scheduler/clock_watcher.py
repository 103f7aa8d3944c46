"""The deadlines' loop: sleeps until the next one is due, and records what has passed."""

from __future__ import annotations

import asyncio
from typing import assert_never

import structlog

from runyard_core.clock import Clock
from runyard_core.errors import Conflict, Unavailable
from runyard_core.retry import Backoff, Retries
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.node_handlers import NodeHandlers
from runyard_scheduler.process.deadlines import (
    Due,
    Expired,
    Limits,
    Lost,
    Silent,
    Unreachable,
    due,
    next_due_seconds,
)
from runyard_scheduler.sessions import Sessions

BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0)
"""Before deadlines are recorded again when the log was away."""
STALL_SECONDS = 2.0
"""Waking up this much too late means that this process was stopped: then nobody's silence counts."""

log = structlog.get_logger("runyard.scheduler.clock")


class ClockWatcher:
    """Records silence of nodes and attempts when it has lasted too long."""

    def __init__(
        self,
        sessions: Sessions,
        leases: LeaseHandlers,
        nodes: NodeHandlers,
        clock: Clock,
        limits: Limits,
    ) -> None:
        """Wake when an agent comes or goes; renewals only move deadlines on."""
        self._sessions = sessions
        self._leases = leases
        self._nodes = nodes
        self._clock = clock
        self._limits = limits
        self._woken = asyncio.Event()
        sessions.on_change(self._woken.set)

    async def run(self) -> None:
        """Record what is due when it is due, for ever."""
        retries = Retries("recording deadlines", BACKOFF, log)
        while True:
            self._woken.clear()
            try:
                recorded = await self.record_due()
            except (Unavailable, Conflict) as error:
                await retries.pause(error)
                continue
            retries.succeeded()
            if not recorded:
                await self._sleep()

    async def record_due(self) -> bool:
        """Record what is due now; gives whether there was anything.

        Raises:
            Unavailable, Conflict: the log did not take it; it stays due.
        """
        now = self._clock.monotonic_seconds()
        # A node that is first seen here counts from no later than its leases do.
        nodes = self._sessions.node_watches()
        found = due(self._sessions.lease_watches(), nodes, self._limits, now)
        for item in found:
            log.info("due", what=type(item).__name__, item=str(item))
            await self._record(item)
        return bool(found)

    async def _record(self, item: Due) -> None:
        match item:
            case Unreachable():
                await self._leases.mark_unreachable(item)
            case Expired():
                await self._leases.expire(item)
            case Lost():
                await self._leases.give_up(item)
            case Silent():
                await self._nodes.detach(item)
            case _:
                assert_never(item)

    async def _sleep(self) -> None:
        now = self._clock.monotonic_seconds()
        nodes = self._sessions.node_watches()
        at = next_due_seconds(self._sessions.lease_watches(), nodes, self._limits)
        # Whatever comes up meanwhile cannot be due sooner than this.
        longest = self._limits.unreachable_seconds
        timeout = longest if at is None else min(longest, max(0.0, at - now))
        try:
            # Not wait_for: before Python 3.12 it may swallow a cancellation that comes with the waking.
            async with asyncio.timeout(timeout):
                await self._woken.wait()
        except TimeoutError:
            late_seconds = self._clock.monotonic_seconds() - now - timeout
            if late_seconds > STALL_SECONDS:
                log.warning("this process was stopped; leases get that time back", seconds=late_seconds)
                self._sessions.forgive(late_seconds)
