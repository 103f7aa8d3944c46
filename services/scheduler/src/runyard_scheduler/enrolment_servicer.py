"""``runyard.node.v1.EnrolmentService``: from requests to the handlers of enrolment and back."""

# ruff: noqa: ARG002 - every method has gRPC's signature

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from runyard.node.v1 import enrolment_service_pb2 as pb
from runyard.node.v1 import enrolment_service_pb2_grpc
from runyard_contracts.ids import NodeId
from runyard_contracts.subjects import bus_user
from runyard_core.errors import Unavailable
from runyard_eventlog.doorbell import Doorbell
from runyard_scheduler.enrolment_handlers import EnrolmentHandlers
from runyard_servicekit.auth import require_role
from runyard_servicekit.node_credentials import INVITED, NodeCredentials

_WAIT_SECONDS = 60.0

Context = grpc.aio.ServicerContext[Any, Any]


class EnrolmentServicer(enrolment_service_pb2_grpc.EnrolmentServiceServicer):
    """Serves people who add and remove machines, and the machines that enroll."""

    def __init__(self, handlers: EnrolmentHandlers, credentials: NodeCredentials) -> None:
        """Answer from these handlers, and tell watchers of these credentials."""
        self._handlers = handlers
        self._credentials = credentials
        self._changes = Doorbell()
        self._is_ending = False
        credentials.on_change(lambda _: self._changes.ring())

    async def InviteNode(self, request: pb.InviteNodeRequest, context: Context) -> pb.InviteNodeResponse:
        """Make a token."""
        require_role("client")
        return await self._handlers.invite(request)

    async def EnrollNode(self, request: pb.EnrollNodeRequest, context: Context) -> pb.EnrollNodeResponse:
        """Let the machine in that holds the token of this call."""
        caller = require_role(INVITED)
        node_id = NodeId(caller.actor.id)
        position = await self._handlers.enroll(node_id, caller.token_sha256, request)
        return pb.EnrollNodeResponse(node_id=node_id, bus_user=bus_user(node_id), position=position)

    async def RevokeNode(self, request: pb.RevokeNodeRequest, context: Context) -> pb.RevokeNodeResponse:
        """Throw a machine out."""
        require_role("client")
        shown = await self._handlers.revoke(request)
        return pb.RevokeNodeResponse(node=shown.node, position=shown.position)

    async def WatchBusUsers(
        self, request: pb.WatchBusUsersRequest, context: Context
    ) -> AsyncIterator[pb.WatchBusUsersResponse]:
        """Tell who may connect to the bus, now and after each change."""
        require_role("service")
        # In part it would throw out nodes that are let in further on in the log.
        await self._credentials.read.wait()
        while not self._is_ending:
            heard = self._changes.rings
            passwords = sorted(self._credentials.bus_passwords().items())
            users = [pb.BusUser(node_id=node_id, password_bcrypt=hashed) for node_id, hashed in passwords]
            yield pb.WatchBusUsersResponse(users=users)
            while not await self._changes.wait(heard, _WAIT_SECONDS):
                pass
        raise Unavailable("the scheduler is stopping; watch again", code="STOPPING")

    def end_all(self) -> None:
        """End every watch, because the scheduler stops."""
        self._is_ending = True
        self._changes.ring()
