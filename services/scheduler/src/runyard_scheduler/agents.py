"""The agents' Attach streams: Hello, then renewals and reports up, grants and stop orders down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog

from runyard.agent.v1 import agent_service_pb2_grpc
from runyard.agent.v1.agent_service_pb2 import AttachRequest, AttachResponse, Hello, LeaseGrant, Welcome
from runyard.event.v1.envelope_pb2 import ActorKind
from runyard_contracts.ids import NodeId, is_name
from runyard_core.errors import (
    Conflict,
    Corrupt,
    InvalidInput,
    PermissionDenied,
    Rejected,
    Unauthenticated,
)
from runyard_core.task_group import TaskGroup
from runyard_scheduler.conversation import Conversation
from runyard_scheduler.fencing import judge
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.node_handlers import NodeHandlers
from runyard_scheduler.sessions import Session, Sessions
from runyard_servicekit.auth import Caller, require_role

FillSecrets = Callable[[LeaseGrant], Awaitable[None]]

log = structlog.get_logger("runyard.scheduler.agents")

HELLO_SECONDS_MAX = 10.0
"""How long a stream may be open without Hello."""


class AgentServicer(agent_service_pb2_grpc.AgentServiceServicer):
    """Serves ``runyard.agent.v1.AgentService``."""

    def __init__(
        self,
        ledger: Ledger,
        sessions: Sessions,
        leases: LeaseHandlers,
        nodes: NodeHandlers,
        tasks: TaskGroup,
        heartbeat_milliseconds: int,
        fill_secrets: FillSecrets | None = None,
    ) -> None:
        """Serve until the task group ends.

        Args:
            ledger: log and world.
            sessions: where open streams are known.
            leases: handlers of lease commands.
            nodes: handlers of node commands and reports.
            tasks: owns the tasks that listen to agents.
            heartbeat_milliseconds: how often agents renew.
            fill_secrets: adds the secrets of its project to a grant; called at the last moment, so that
                nothing else in this process ever holds them.
        """
        self._ledger = ledger
        self._sessions = sessions
        self._leases = leases
        self._nodes = nodes
        self._tasks = tasks
        self._heartbeat_milliseconds = heartbeat_milliseconds
        self._fill_secrets = fill_secrets

    async def Attach(
        self,
        request_iterator: AsyncIterator[AttachRequest],
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002 - gRPC's signature
    ) -> AsyncIterator[AttachResponse]:
        """Serve one agent until it leaves, is replaced, or does not read."""
        caller = require_role("agent")
        hello = await _hello(request_iterator)
        node_id = _checked_node(hello, caller)
        await self._nodes.attach(node_id, hello.inventory)
        judged = await judge(self._ledger, node_id, hello.held_attempts)
        session = Session(node_id)
        conversation = Conversation(
            session, hello.inventory, self._ledger, self._sessions, self._leases, self._nodes
        )
        if self._ledger.world.node(node_id).node.access.revoked:
            # While it was let in: nobody could end a stream that was not there yet.
            raise Unauthenticated(f"node {node_id} was revoked", code="NODE_REVOKED")
        self._sessions.open(session, replaced_by=_attached_elsewhere(node_id))
        conversation.begin(hello.held_attempts, judged)
        listening = self._tasks.create_task(conversation.listen(request_iterator))
        recording = self._tasks.create_task(conversation.record())
        try:
            yield AttachResponse(
                welcome=Welcome(
                    heartbeat_milliseconds=self._heartbeat_milliseconds, fenced_attempts=judged.fenced
                )
            )
            while (message := await session.next()) is not None:
                if message.WhichOneof("message") != "lease_grant" or await self._fill(message.lease_grant):
                    yield message
        finally:
            listening.cancel()
            recording.cancel()
            self._sessions.close(session)

    async def _fill(self, grant: LeaseGrant) -> bool:
        """Add the secrets to a grant; False when nobody can ever open them, which ends its run.

        Raises:
            Unavailable: database or log did not answer. The stream ends, and the agent gets the grant with
                the next one.
        """
        if self._fill_secrets is None:
            return True
        try:
            await self._fill_secrets(grant)
        except (Corrupt, Rejected) as error:
            # The node's other attempts need the stream.
            log.warning("the secrets of a run cannot be opened", run_id=grant.run_id, reason=error.message)
            await self._leases.withhold(grant, f"the secrets of project {grant.project}: {error.message}")
            return False
        return True


async def _hello(requests: AsyncIterator[AttachRequest]) -> Hello:
    try:
        async with asyncio.timeout(HELLO_SECONDS_MAX):
            first = await anext(aiter(requests), None)
    except TimeoutError:
        first = None
    if first is None or first.WhichOneof("message") != "hello":
        raise InvalidInput("an Attach stream opens with Hello", code="HELLO_FIRST")
    return first.hello


def _checked_node(hello: Hello, caller: Caller) -> NodeId:
    if not is_name(hello.node_id):
        raise InvalidInput(
            f"{hello.node_id!r} cannot name a node: want 1 to 63 of a-z, 0-9 and '-'",
            code="BAD_NODE_NAME",
            field_violations={"hello.node_id": "not a name"},
        )
    if caller.actor.kind != ActorKind.ACTOR_KIND_AGENT or caller.actor.id != hello.node_id:
        raise PermissionDenied(f"{caller.name} may not speak for node {hello.node_id}", code="NOT_YOUR_NODE")
    return NodeId(hello.node_id)


def _attached_elsewhere(node_id: NodeId) -> Conflict:
    return Conflict(f"another agent attached as node {node_id}", code="ATTACHED_ELSEWHERE")
