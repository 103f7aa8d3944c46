"""What nodes say: attached, changed, silent, reports about attempts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.message import Message

from runyard.agent.v1.agent_service_pb2 import AttemptReport, ForeignProcess
from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard.node.v1.events_pb2 import NodeAttached
from runyard.node.v1.types_pb2 import NodeInventory
from runyard.run.v1.events_pb2 import RunLeaseGranted, RunStaleReportReceived
from runyard_contracts.envelope import Context
from runyard_contracts.ids import CommandId, NodeId, uuid7
from runyard_core.clock import Clock
from runyard_scheduler.changes import SERVICE, Change, change, run_changes
from runyard_scheduler.domain import node as node_domain
from runyard_scheduler.domain import run as run_domain
from runyard_scheduler.domain.node import NodeCommand
from runyard_scheduler.domain.run_commands import Report
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.process.deadlines import Silent
from runyard_servicekit.tracing import current_traceparent


class NodeHandlers:
    """Runs the commands of agents, and those about nodes."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        """Decide on this ledger's world."""
        self._ledger = ledger
        self._clock = clock

    async def attach(self, node_id: NodeId, inventory: NodeInventory) -> None:
        """Record that a node's agent opened its stream. Raises Unavailable when the log is away."""
        await self._node_command(node_id, node_domain.Attach(node_id, inventory), _agent(node_id))

    async def change_inventory(self, node_id: NodeId, inventory: NodeInventory) -> None:
        """Record what a node has now. Raises Unavailable when the log is away."""
        await self._node_command(node_id, node_domain.ChangeInventory(inventory), _agent(node_id))

    async def detach(self, due: Silent) -> None:
        """Record that a node is not heard from. Raises Unavailable when the log is away."""
        detach = node_domain.Detach(due.reason, due.silent_milliseconds)
        scheduler = Actor(kind=ActorKind.ACTOR_KIND_SERVICE, id=SERVICE)
        await self._node_command(due.node_id, detach, scheduler)

    async def see_foreign_process(self, node_id: NodeId, seen: ForeignProcess) -> None:
        """Record a process that belongs to no attempt.

        Raises:
            InvalidInput: its report_id is not a UUID.
            IdReused: its report_id came with another report before.
            Unavailable: the log is away.
        """
        await self._node_command(
            node_id,
            node_domain.SeeForeignProcess(seen),
            _agent(node_id),
            command_id=CommandId(seen.report_id),
            request_digest=hashlib.sha256(seen.SerializeToString(deterministic=True)).digest(),
            occurred_at=seen.occurred_at.ToDatetime(UTC) if seen.HasField("occurred_at") else None,
        )

    async def report(self, node_id: NodeId, report: AttemptReport) -> None:
        """Record a fact about an attempt; a repeated report changes nothing.

        Raises:
            InvalidInput: its report_id is not a UUID, or it is too large for an event.
            NotFound: there is no such run.
            Rejected: it is not about an attempt that the node ever had.
            IdReused: its report_id came with another report before.
            Unavailable: the log is away.
        """

        async def decide() -> Sequence[Change]:
            entry = await self._ledger.run(report.run_id)
            decided = run_domain.decide(entry.run, Report(node_id, report))
            context = Context(
                actor=_agent(node_id),
                correlation_id=entry.correlation_id,
                source=f"/agents/{node_id}",
                traceparent=entry.traceparent,
            )
            return run_changes(
                self._ledger.world,
                entry,
                decided,
                context,
                self._clock.now(),
                occurred_at=report.occurred_at.ToDatetime(UTC) if report.HasField("occurred_at") else None,
                causation_id=await self._late_cause(report) if _is_late(decided) else "",
            )

        digest = hashlib.sha256(report.SerializeToString(deterministic=True)).digest()
        await self._ledger.transact(CommandId(report.report_id), decide, digest)

    async def _late_cause(self, report: AttemptReport) -> str:
        """Give the grant that a report of an older attempt follows from."""
        for event in await self._ledger.history(report.run_id):
            granted = event.message
            if isinstance(granted, RunLeaseGranted) and granted.epoch == report.epoch:
                return event.envelope.event_id
        return ""

    async def _node_command(
        self,
        node_id: NodeId,
        command: NodeCommand,
        actor: Actor,
        *,
        command_id: CommandId | None = None,
        request_digest: bytes = b"",
        occurred_at: datetime | None = None,
    ) -> None:
        async def decide() -> Sequence[Change]:
            entry = self._ledger.world.node(node_id)
            decided = node_domain.decide(entry.node, command)
            if not decided:
                return []
            attaches = any(isinstance(message, NodeAttached) for message in decided)
            context = Context(
                actor=actor,
                correlation_id=uuid7() if attaches else entry.attachment_correlation_id or uuid7(),
                source=f"/{SERVICE}",
                traceparent=current_traceparent(),
            )
            now = occurred_at or self._clock.now()
            return [change("node", node_id, entry.version, decided, context, now)]

        await self._ledger.transact(command_id or CommandId(uuid7()), decide, request_digest)


def _agent(node_id: NodeId) -> Actor:
    return Actor(kind=ActorKind.ACTOR_KIND_AGENT, id=node_id)


def _is_late(decided: Sequence[Message]) -> bool:
    return any(isinstance(message, RunStaleReportReceived) for message in decided)
