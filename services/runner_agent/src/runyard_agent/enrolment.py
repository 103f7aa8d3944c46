"""Makes this machine a node: hands the token in over TLS and keeps the credential that it registers."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2

from runyard.node.v1.enrolment_service_pb2 import EnrollNodeRequest, EnrollNodeResponse, EnrolmentToken
from runyard.node.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub
from runyard.node.v1.types_pb2 import NodeInventory
from runyard_agent.durable_files import write_atomically
from runyard_agent.enrolled import Enrolled
from runyard_agent.gate import Gate, open_channel
from runyard_contracts import gate as names
from runyard_contracts.enrolment_token import parse_enrolment_token
from runyard_contracts.ids import uuid7
from runyard_contracts.token_text import SECRET_BYTES, TokenError, secret_sha256
from runyard_core.errors import InvalidInput, Rejected, RunyardError, Unavailable

PENDING_FILE = "enrolling.json"
_CALL_SECONDS_MAX = 20.0


@dataclass(frozen=True, slots=True)
class _Pending:
    """Secrets drawn before the yard hears of them: when its answer is lost, the same are sent again."""

    token_sha256: str
    request_id: str
    credential: str = field(repr=False)
    bus_password: str = field(repr=False)


def read_token(text: str) -> EnrolmentToken:
    """Read a token.

    Raises:
        InvalidInput: BAD_TOKEN, with what is wrong with it.
    """
    try:
        return parse_enrolment_token(text)
    except TokenError as error:
        raise InvalidInput(str(error), code="BAD_TOKEN") from error


async def enroll(directory: Path, token: EnrolmentToken, gate: Gate, inventory: NodeInventory) -> Enrolled:
    """Hand the token in. May be done again with the same token when it is not known whether it worked.

    Raises:
        Rejected: the token lets nobody in, with the yard's own reason (TOKEN_USED, TOKEN_EXPIRED, ...).
        Unavailable: the yard does not answer.
    """
    pending = _pending(directory, token)
    request = EnrollNodeRequest(
        request_id=pending.request_id,
        credential=pending.credential,
        bus_password=pending.bus_password,
        inventory=inventory,
    )
    answer = await _hand_in(gate, token.secret, request)
    enrolled = Enrolled(
        node_id=answer.node_id,
        address=gate.address,
        bus_user=answer.bus_user,
        credential=pending.credential,
        bus_password=pending.bus_password,
    )
    _keep(enrolled, directory, gate)
    return enrolled


async def _hand_in(gate: Gate, secret: str, request: EnrollNodeRequest) -> EnrollNodeResponse:
    async with open_channel(gate.address, gate, names.SCHEDULER, ()) as channel:
        stub: EnrolmentServiceStub = EnrolmentServiceStub(channel)
        try:
            return await stub.EnrollNode(
                request, metadata=(("authorization", f"Bearer {secret}"),), timeout=_CALL_SECONDS_MAX
            )
        except grpc.aio.AioRpcError as error:
            raise _explained(error, gate.address) from error


def _keep(enrolled: Enrolled, directory: Path, gate: Gate) -> None:
    enrolled.save(directory, gate.certificate_pem)
    (directory / PENDING_FILE).unlink()


def _pending(directory: Path, token: EnrolmentToken) -> _Pending:
    path = directory / PENDING_FILE
    token_sha256 = secret_sha256(token.secret)
    try:
        known = _Pending(**json.loads(path.read_bytes()))
        if known.token_sha256 == token_sha256:
            return known
    except (FileNotFoundError, ValueError, TypeError):
        pass
    drawn = _Pending(
        token_sha256, uuid7(), secrets.token_urlsafe(SECRET_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    )
    content = {name: getattr(drawn, name) for name in _Pending.__slots__}
    write_atomically(path, json.dumps(content).encode())
    return drawn


def _explained(error: grpc.aio.AioRpcError, address: str) -> RunyardError:
    sentence = error.details() or "no details"
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return Unavailable(
            f"the yard at {address} does not answer: {sentence}; try the same again",
            code="SERVER_UNREACHABLE",
        )
    return Rejected(sentence, code=_reason(error) or error.code().name)


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Give the stable reason code that came with an error; empty when there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
