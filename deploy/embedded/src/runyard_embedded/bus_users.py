"""Keeps the bus's users those that the scheduler names: a node that is revoked is cut off at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc

from runyard.node.v1.enrolment_service_pb2 import WatchBusUsersRequest
from runyard.node.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub
from runyard_core.errors import Unavailable
from runyard_core.retry import Backoff, Retries
from runyard_embedded.home import write_private
from runyard_engines import NatsServer, agent_user

_BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0)

log = logging.getLogger("runyard.supervisor")

Take = Callable[[Mapping[str, str]], None]
"""Is given every enrolled node with the bcrypt hash of its password."""


async def keep_bus_users(scheduler_address: str, service_token: str, take: Take) -> None:
    """Hand on what the scheduler says of enrolled nodes, now and after each change, for ever.

    Until the scheduler has answered once, nothing is handed on; while it is away, what it said last stays.
    """
    metadata = (("authorization", f"Bearer {service_token}"),)
    async with grpc.aio.insecure_channel(scheduler_address) as channel:
        stub: EnrolmentServiceStub = EnrolmentServiceStub(channel)
        retries = Retries("keeping the users of the bus", _BACKOFF, log)
        while True:
            try:
                async for told in stub.WatchBusUsers(WatchBusUsersRequest(), metadata=metadata):
                    take({user.node_id: user.password_bcrypt for user in told.users})
                    retries.succeeded()
                raise Unavailable("the scheduler ended the stream")
            except grpc.aio.AioRpcError as error:
                await retries.pause(error, f"the scheduler does not name them: {error.details()}")
            except (OSError, Unavailable) as error:
                # A full disk: the users stay as they were until they can be written down.
                await retries.pause(error)


def into_our_bus(nats: NatsServer) -> Take:
    """Give the bus that we run its own users and the nodes."""
    own = nats.spec.users

    def take(nodes: Mapping[str, str]) -> None:
        users = (*own, *(agent_user(node_id, hashed) for node_id, hashed in nodes.items()))
        known = {user.name for user in nats.spec.users}
        named = {user.name for user in users}
        if users != nats.spec.users:
            nats.set_users(users)
            log.info("users of the bus: %s", _change(sorted(named - known), sorted(known - named)))

    return take


def into_file(path: Path) -> Take:
    """Write the nodes down for whoever runs the bus: ``deploy/nats/configuration.py --agents`` reads it."""

    def take(nodes: Mapping[str, str]) -> None:
        write_private(path, dict(nodes))

    return take


def _change(added: list[str], removed: list[str]) -> str:
    parts = [f"added {', '.join(added)}"] if added else []
    parts += [f"removed {', '.join(removed)}"] if removed else []
    return "; ".join(parts) or "other passwords"
