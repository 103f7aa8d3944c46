"""Keeps the bus's users those that the scheduler names: a node that is revoked is cut off at once."""

from __future__ import annotations

import asyncio
import logging

import grpc

from runyard.node.v1.enrolment_service_pb2 import WatchBusUsersRequest
from runyard.node.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub
from runyard_engines import NatsServer, NatsUser, agent_user

RETRY_SECONDS = 1.0

log = logging.getLogger("runyard.supervisor")


async def keep_bus_users(scheduler_address: str, service_token: str, nats: NatsServer) -> None:
    """Give the server its own users and those of enrolled nodes, now and after each change, for ever.

    Until the scheduler has answered once, no enrolled node is let in; while it is away, those stay who were.
    """
    own = nats.spec.users
    metadata = (("authorization", f"Bearer {service_token}"),)
    async with grpc.aio.insecure_channel(scheduler_address) as channel:
        stub: EnrolmentServiceStub = EnrolmentServiceStub(channel)
        while True:
            try:
                async for told in stub.WatchBusUsers(WatchBusUsersRequest(), metadata=metadata):
                    nodes = [agent_user(user.node_id, user.password_bcrypt) for user in told.users]
                    _set_users(nats, (*own, *nodes))
            except grpc.aio.AioRpcError as error:
                log.debug("the scheduler does not name the bus's users: %s", error.details())
            except OSError as error:  # a full disk; the users stay as they were until it is written
                log.warning("the users of the bus cannot be written down: %s", error)
            await asyncio.sleep(RETRY_SECONDS)


def _set_users(nats: NatsServer, users: tuple[NatsUser, ...]) -> None:
    if users == nats.spec.users:
        return
    known = {user.name for user in nats.spec.users}
    named = {user.name for user in users}
    nats.set_users(users)
    log.info("users of the bus: %s", _change(sorted(named - known), sorted(known - named)))


def _change(added: list[str], removed: list[str]) -> str:
    parts = [f"added {', '.join(added)}"] if added else []
    parts += [f"removed {', '.join(removed)}"] if removed else []
    return "; ".join(parts) or "other passwords"
