"""A node without a machine: what any program could be that enrolled."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client

from runyard.node.v1.enrolment_service_pb2 import EnrollNodeRequest
from runyard.node.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub
from runyard.node.v1.types_pb2 import NodeInventory
from runyard_contracts import gate as names
from runyard_contracts.enrolment_token import parse_enrolment_token
from runyard_contracts.ids import uuid7
from runyard_contracts.pinned_gate import Gate, fetch_gate
from runyard_contracts.subjects import bus_user, inbox_prefix
from runyard_core.bus_connection import hang_up


@dataclass(frozen=True)
class Enrolled:
    """What it keeps."""

    gate: Gate
    credential: str
    bus_password: str


async def enrolled(token_text: str) -> Enrolled:
    """Hand a token in."""
    token = parse_enrolment_token(token_text)
    gate = await asyncio.to_thread(fetch_gate, token.address, token.certificate_sha256)
    made = Enrolled(gate, secrets.token_urlsafe(32), secrets.token_urlsafe(32))
    request = EnrollNodeRequest(
        request_id=uuid7(),
        credential=made.credential,
        bus_password=made.bus_password,
        inventory=NodeInventory(hostname=token.node_id),
    )
    async with gate.channel(names.SCHEDULER, ()) as channel:
        enrolment: EnrolmentServiceStub = EnrolmentServiceStub(channel)
        first = await enrolment.EnrollNode(request, metadata=bearer(token.secret), timeout=20)
        # As a machine does that did not get the answer.
        again = await enrolment.EnrollNode(request, metadata=bearer(token.secret), timeout=20)
    assert first == again
    return made


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    """Give what a call with this secret needs."""
    return (("authorization", f"Bearer {secret}"),)


async def on_the_bus(node_id: str, node: Enrolled, heard: list[str], closed: asyncio.Event) -> Client:
    """Connect as soon as the bus knows the node."""
    while True:
        try:
            return await connect(node_id, node, heard, closed)
        except nats.errors.Error:
            closed.clear()
            await asyncio.sleep(0.1)


async def connect(node_id: str, node: Enrolled, heard: list[str], closed: asyncio.Event) -> Client:
    """Connect to the bus once; ``heard`` gets what it complains of."""

    async def on_error(error: Exception) -> None:
        heard.append(str(error))

    async def on_closed() -> None:
        closed.set()

    client = Client()
    try:
        await client.connect(
            f"tls://{node.gate.address}",
            user=bus_user(node_id),
            password=node.bus_password,
            tls=node.gate.tls(),
            tls_hostname=names.BUS,
            tls_handshake_first=True,
            inbox_prefix=inbox_prefix(node_id),
            allow_reconnect=False,
            error_cb=on_error,
            closed_cb=on_closed,
        )
    except BaseException:
        await hang_up(client)
        raise
    return client
