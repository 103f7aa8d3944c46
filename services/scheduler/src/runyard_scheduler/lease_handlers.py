"""What the scheduler asks of runs on its own: leases granted, unheard of, expired and given up."""

from __future__ import annotations

from collections.abc import Sequence

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard_contracts.ids import CommandId, LeaseId, RunId, uuid7
from runyard_core.clock import Clock
from runyard_core.errors import Rejected
from runyard_scheduler.changes import Change, change, on_behalf_of, run_changes
from runyard_scheduler.domain import node as node_domain
from runyard_scheduler.domain import run as run_domain
from runyard_scheduler.domain.placement import Placement
from runyard_scheduler.domain.run_commands import (
    ExpireLease,
    GiveUp,
    Grant,
    MarkReachable,
    MarkUnreachable,
    RunCommand,
    Withhold,
)
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.process.deadlines import Expired, Lost, Unreachable


class LeaseHandlers:
    """Runs the commands of planner and deadlines."""

    def __init__(self, ledger: Ledger, clock: Clock, lease_milliseconds: int) -> None:
        """Decide on this ledger's world; new leases have this length."""
        self._ledger = ledger
        self._clock = clock
        self._lease_milliseconds = lease_milliseconds

    async def grant(self, placement: Placement) -> bool:
        """Lease the placement's GPUs to its run; False when run or GPUs went elsewhere meanwhile.

        Raises:
            Unavailable: the log did not answer.
        """
        lease_id = LeaseId(uuid7())

        async def decide() -> Sequence[Change]:
            return self._decide_grant(placement, lease_id)

        try:
            await self._ledger.transact(CommandId(uuid7()), decide)
        except Rejected:
            return False
        return True

    async def mark_unreachable(self, due: Unreachable) -> None:
        """Record that an attempt is not heard of. Raises Unavailable when the log is away."""
        await self._run_command(due.run_id, MarkUnreachable(due.epoch, due.silent_milliseconds))

    async def mark_reachable(self, run_id: RunId, epoch: int) -> None:
        """Record that an attempt is heard of again. Raises Unavailable when the log is away."""
        await self._run_command(run_id, MarkReachable(epoch))

    async def expire(self, due: Expired) -> None:
        """Record that a lease ran out. Raises Unavailable when the log is away."""
        await self._run_command(due.run_id, ExpireLease(due.epoch, due.silent_milliseconds))

    async def give_up(self, due: Lost) -> None:
        """Fail an attempt that has surely ended. Raises Unavailable when the log is away."""
        await self._run_command(due.run_id, GiveUp(due.epoch, due.detail))

    async def withhold(self, grant: LeaseGrant, detail: str) -> None:
        """End a run whose lease cannot be sent to its node. Raises Unavailable when the log is away."""
        await self._run_command(RunId(grant.run_id), Withhold(grant.epoch, detail))

    async def _run_command(self, run_id: RunId, command: RunCommand) -> None:
        async def decide() -> Sequence[Change]:
            entry = await self._ledger.run(run_id)
            decided = run_domain.decide(entry.run, command)
            return run_changes(self._ledger.world, entry, decided, on_behalf_of(entry), self._clock.now())

        await self._ledger.transact(CommandId(uuid7()), decide)

    def _decide_grant(self, placement: Placement, lease_id: LeaseId) -> Sequence[Change]:
        world = self._ledger.world
        entry, node = world.run(placement.run_id), world.node(placement.node_id)
        if entry is None:
            raise Rejected(f"run {placement.run_id} is not waiting any more", code="NOT_QUEUED")
        grant = Grant(lease_id, placement.node_id, placement.gpu_uuids, self._lease_milliseconds)
        granted = run_domain.decide(entry.run, grant)
        reserve = node_domain.Reserve(
            lease_id, placement.run_id, entry.run.attempt + 1, placement.gpu_uuids, entry.run.project
        )
        reserved = node_domain.decide(node.node, reserve)
        now = self._clock.now()
        leased = run_changes(world, entry, granted, on_behalf_of(entry), now)
        of_node = on_behalf_of(entry, causation_id=leased[0].events[0].event_id)
        held = change("node", node.node.node_id, node.version, reserved, of_node, now)
        # Both or neither: the versions of the two streams forbid a second lease on run or GPU.
        return [*leased, held]
