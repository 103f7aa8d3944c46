"""The planner's loop: woken by events, it places what can be placed and sends the grants."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import groupby

import structlog

from runyard_contracts.ids import NodeId
from runyard_core.clock import Clock
from runyard_core.errors import Conflict, Unavailable
from runyard_core.retry import Backoff, Retries
from runyard_core.task_group import TaskGroup
from runyard_scheduler.domain.placement import Placement, Requirement, Supply, plan, what_is_lacking
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.sessions import Sessions

BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0)
"""Before planning again when the log was away."""

log = structlog.get_logger("runyard.scheduler.planner")


class Planner:
    """Places queued runs. One for each process; stream versions keep several from granting twice."""

    def __init__(self, ledger: Ledger, sessions: Sessions, handlers: LeaseHandlers, clock: Clock) -> None:
        """Wake on every change of world or sessions."""
        self._ledger = ledger
        self._sessions = sessions
        self._handlers = handlers
        self._clock = clock
        self._woken = asyncio.Event()
        self._waiting: Mapping[Requirement, str] = {}
        ledger.on_change(self._woken.set)
        sessions.on_change(self._woken.set)

    def waiting_reason(self, run_id: str) -> str:
        """Say in one sentence why a run waits; empty when it does not, or is about to be placed."""
        world = self._ledger.world
        entry = world.run(run_id)
        queued = None if entry is None else entry.queued
        if queued is None:
            return ""
        # Of one that was just queued there is no plan yet, but it may be clear that nothing can run it.
        return self._waiting.get(queued.requirement, "") or what_is_lacking(
            queued.requirement, [Supply.of(each.node, attached=True) for each in world.nodes()]
        )

    async def run(self) -> None:
        """Plan whenever something has changed, for ever."""
        self._woken.set()
        retries = Retries("planning", BACKOFF, log)
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self.plan_once()
            except* (Unavailable, Conflict) as group:
                await retries.pause(group)
                self._woken.set()
            else:
                retries.succeeded()

    async def plan_once(self) -> None:
        """Place what can be placed now.

        Raises:
            ExceptionGroup: of Unavailable or Conflict; what was not granted is planned again.
        """
        ready = self._sessions.ready()
        world = self._ledger.world
        supplies = [Supply.of(entry.node, attached=entry.node.node_id in ready) for entry in world.nodes()]
        made = plan(world.queue, supplies, self._clock.now())
        self._waiting = made.waiting
        by_node = sorted(made.placements, key=lambda placement: placement.node_id)
        async with TaskGroup() as tasks:
            # Grants of one node change its stream one after the other; nodes do not wait for each other.
            for _, placements in groupby(by_node, key=_node):
                tasks.create_task(self._grant_all(list(placements)))

    async def _grant_all(self, placements: list[Placement]) -> None:
        for placement in placements:
            if not await self._handlers.grant(placement):
                self._woken.set()
                continue
            entry = self._ledger.world.run(placement.run_id)
            lease = None if entry is None else entry.run.live_lease
            if entry is not None and lease is not None:
                self._sessions.send_grant(entry, lease)


def _node(placement: Placement) -> NodeId:
    return placement.node_id
