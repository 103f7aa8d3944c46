"""How machines become nodes, through the handlers: what is repeated, what is refused, what is kept."""

from __future__ import annotations

import hashlib
import secrets
from itertools import groupby
from pathlib import Path

import bcrypt
import grpc
import pytest
from google.protobuf.json_format import MessageToJson

from runyard.event.v1.envelope_pb2 import Lane
from runyard.node.v1 import enrolment_service_pb2 as pb
from runyard.node.v1.types_pb2 import NodeState
from runyard_contracts.enrolment_token import parse_enrolment_token
from runyard_contracts.ids import NodeId, uuid7
from runyard_contracts.token_text import secret_sha256
from runyard_core.clock import SystemClock
from runyard_core.errors import IdReused, InvalidInput, Rejected, Unauthenticated
from runyard_scheduler.domain.node import NODE as NODE_DECIDER
from runyard_scheduler.enrolment_handlers import EnrolmentHandlers, Gate
from runyard_scheduler.process.recorded_commands import node_command
from runyard_scheduler.process.restoring import node_entry
from runyard_scheduler.projections.nodes import NodeRow, node_row
from runyard_servicekit.node_credentials import NodeCredentials

from .yard import MemoryYard, a_spec, an_inventory, held, started

NODE = NodeId("node-1")
GATE = Gate("yard.example:7443", hashlib.sha256(b"certificate").digest())


class Enrolment:
    """The handlers on a yard in memory."""

    def __init__(self, yard: MemoryYard, gate: Gate | None = GATE) -> None:
        self.yard = yard
        self.credentials = NodeCredentials()
        self.handlers = EnrolmentHandlers(yard.ledger, self.credentials, SystemClock(), gate)

    async def invite(self, **fields: object) -> pb.EnrolmentToken:
        request = pb.InviteNodeRequest(
            request_id=uuid7(), node_id=NODE, token_secret=secrets.token_urlsafe(32)
        )
        request.MergeFrom(pb.InviteNodeRequest(**fields))  # type: ignore[arg-type]
        first, again = await self.handlers.invite(request), await self.handlers.invite(request)
        assert first == again
        return parse_enrolment_token(first.token)

    async def enroll(self, token: pb.EnrolmentToken, request: pb.EnrollNodeRequest | None = None) -> None:
        await self.handlers.enroll(NODE, secret_sha256(token.secret), request or enrolling())

    async def revoke(self) -> NodeState.ValueType:
        request = pb.RevokeNodeRequest(request_id=uuid7(), node_id=NODE, reason="sold")
        return (await self.handlers.revoke(request)).node.state


def enrolling() -> pb.EnrollNodeRequest:
    return pb.EnrollNodeRequest(
        request_id=uuid7(),
        credential=secrets.token_urlsafe(32),
        bus_password=secrets.token_urlsafe(32),
        inventory=an_inventory(),
    )


async def test_a_token_says_where_the_yard_is_and_how_to_know_it(yard: MemoryYard) -> None:
    enrolment = Enrolment(yard)
    token = await enrolment.invite()
    assert (token.node_id, token.address) == (NODE, GATE.address)
    assert token.certificate_sha256 == GATE.certificate_sha256
    assert (await enrolment.invite(address="10.0.0.5:1")).address == "10.0.0.5:1"


async def test_handing_a_token_in_again_is_one_enrolment(yard: MemoryYard) -> None:
    enrolment, request = Enrolment(yard), enrolling()
    token = await enrolment.invite()
    await enrolment.enroll(token, request)
    await enrolment.enroll(token, request)
    caller = enrolment.credentials.caller(secret_sha256(request.credential))
    assert caller is not None
    assert caller.name == f"agent:{NODE}"
    hashed = enrolment.credentials.bus_passwords()[NODE]
    assert bcrypt.checkpw(request.bus_password.encode(), hashed.encode())
    with pytest.raises(Rejected) as refused:
        await enrolment.enroll(token)
    assert refused.value.code == "TOKEN_USED"
    request.credential = secrets.token_urlsafe(32)
    with pytest.raises(IdReused):
        await enrolment.enroll(token, request)


async def test_no_event_holds_a_secret(yard: MemoryYard) -> None:
    enrolment, request = Enrolment(yard), enrolling()
    token = await enrolment.invite()
    await enrolment.enroll(token, request)
    await enrolment.revoke()
    page = await yard.ledger.log.read(Lane.LANE_DOMAIN)
    told = "".join(MessageToJson(event.message) for event in page.events)
    kept = b"".join(event.envelope.SerializeToString() for event in page.events)
    for secret in (token.secret, request.credential, request.bus_password):
        assert secret not in told
        assert secret.encode() not in kept


async def test_a_revoked_node_is_lost_with_its_attempts_and_its_stream_ends(yard: MemoryYard) -> None:
    enrolment, request = Enrolment(yard), enrolling()
    enrolment.credentials.on_change(lambda node_id: yard.sessions.end(node_id, Unauthenticated("revoked")))
    await enrolment.enroll(await enrolment.invite(), request)
    agent = await yard.attach()
    run = await yard.submit(a_spec())
    grant = await agent.grant()
    await agent.report(started(grant))
    await agent.renew(held(grant))

    assert await enrolment.revoke() == NodeState.NODE_STATE_REVOKED
    assert await enrolment.revoke() == NodeState.NODE_STATE_REVOKED
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await agent.read_to_the_end()
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(Unauthenticated):
        enrolment.credentials.caller(secret_sha256(request.credential))
    assert list(yard.ledger.world.nodes()) == []
    await yard.pass_time(11)
    await yard.pass_time(61)
    await yard.pass_time(31)
    assert (await yard.types(run.run_id))[-2:] == ["attempt_failed", "finished"]


async def test_access_is_restored_as_the_log_tells_it(yard: MemoryYard) -> None:
    enrolment = Enrolment(yard)
    token = await enrolment.invite()
    await enrolment.enroll(token)
    await enrolment.invite(valid_seconds=60)
    await enrolment.revoke()
    row: NodeRow | None = None
    for event in (await yard.ledger.log.read(Lane.LANE_DOMAIN)).events:
        row = node_row(row, event)
    assert row is not None
    assert node_entry(row).node == yard.ledger.world.node(NODE).node


async def test_what_was_decided_of_nodes_can_be_decided_again(yard: MemoryYard) -> None:
    enrolment = Enrolment(yard)
    await enrolment.enroll(await enrolment.invite())
    agent = await yard.attach()
    await enrolment.revoke()
    page = await yard.ledger.log.read(Lane.LANE_DOMAIN)
    state = NODE_DECIDER.initial
    for _, group in groupby(page.events, key=lambda event: event.envelope.command_id):
        messages = [event.message for event in group]
        command = node_command(state, messages)
        assert command is not None
        assert NODE_DECIDER.decide(state, command) == messages
        state = NODE_DECIDER.fold(messages, state)
    assert state == yard.ledger.world.node(NODE).node
    await agent.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_id": "Not A Name"},
        {"token_secret": "short"},
        {"valid_seconds": -1},
        {"valid_seconds": 30 * 86_400 + 1},
        {"address": "no-port"},
    ],
)
async def test_a_wrong_invitation_is_refused(yard: MemoryYard, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        await Enrolment(yard).invite(**wrong)


async def test_without_a_gate_nobody_can_be_invited(yard: MemoryYard) -> None:
    with pytest.raises(Rejected) as refused:
        await Enrolment(yard, gate=Gate.of_settings("", None)).invite()
    assert refused.value.code == "NO_GATE"


def test_a_gate_without_a_certificate_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "gate.crt").write_text("no certificate")
    with pytest.raises(InvalidInput):
        Gate.of_settings("yard:1", tmp_path / "gate.crt")
