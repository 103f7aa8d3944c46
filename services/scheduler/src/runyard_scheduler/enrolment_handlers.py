"""How machines become nodes: invited, enrolled, revoked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from ssl import PEM_cert_to_DER_cert

import bcrypt
from google.protobuf.message import Message

from runyard.node.v1 import enrolment_service_pb2 as pb
from runyard.node.v1.types_pb2 import Node
from runyard_contracts.enrolment_token import format_enrolment_token
from runyard_contracts.ids import NodeId, Position, is_name, stream_name
from runyard_contracts.token_text import is_address, is_secret, secret_sha256
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, Rejected
from runyard_eventlog.handler import load
from runyard_replay.folding.nodes import node_after
from runyard_scheduler.changes import SERVICE, Change, change
from runyard_scheduler.domain import node as node_domain
from runyard_scheduler.domain.node import NodeCommand
from runyard_scheduler.domain.node_access import Enroll, Invite, Revoke
from runyard_scheduler.ledger import Committed, Ledger
from runyard_servicekit.context import command_id, request_context
from runyard_servicekit.node_credentials import NodeCredentials

VALID_SECONDS_DEFAULT = 3_600
VALID_SECONDS_MAX = 30 * 86_400
REASON_LENGTH_MAX = 200
# The password is 32 random bytes: nothing is gained by a slow hash, and every node waits for it.
_BCRYPT_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Gate:
    """Where machines outside find the yard, and how they know that they have found it."""

    address: str
    """host:port."""
    certificate_sha256: bytes
    """Of the authority that signs what the gate shows."""

    @classmethod
    def of_settings(cls, address: str, authority_file: Path | None) -> Gate | None:
        """Read the authority's certificate; None when the yard has no gate.

        Raises:
            InvalidInput: the file holds no certificate.
            OSError: it cannot be read.
        """
        if not address or authority_file is None:
            return None
        try:
            der = PEM_cert_to_DER_cert(authority_file.read_text(encoding="ascii"))
        except ValueError as error:
            raise InvalidInput(f"{authority_file} holds no certificate: {error}") from error
        return cls(address, hashlib.sha256(der).digest())


@dataclass(frozen=True, slots=True)
class Shown:
    """A node as of a position."""

    node: Node
    position: Position


class EnrolmentHandlers:
    """Runs the commands of enrolment. Call within an RPC: the caller is part of each command."""

    def __init__(self, ledger: Ledger, credentials: NodeCredentials, clock: Clock, gate: Gate | None) -> None:
        """Decide on this ledger's world; ``credentials`` learns of each decision at once."""
        self._ledger = ledger
        self._credentials = credentials
        self._clock = clock
        self._gate = gate

    async def invite(self, request: pb.InviteNodeRequest) -> pb.InviteNodeResponse:
        """Make an enrolment token; repeating the request gives the same one.

        Raises:
            InvalidInput: the request is wrong.
            Rejected: the yard has no gate (NO_GATE), or the name is taken (NODE_NAME_TAKEN).
            IdReused: the request_id came with another request before.
            Unavailable: the log did not answer; the same request may be tried again.
        """
        _check_invitation(request)
        if self._gate is None:
            raise Rejected(
                "the yard listens on loopback only, where no other machine can enroll: "
                "start it with `runyard up --listen ADDRESS`",
                code="NO_GATE",
            )
        node_id = NodeId(request.node_id)
        expires_at = self._clock.now() + timedelta(seconds=request.valid_seconds or VALID_SECONDS_DEFAULT)
        invite = Invite(node_id, secret_sha256(request.token_secret), expires_at)
        committed = await self._transact("InviteNode", request, node_id, invite)
        token = pb.EnrolmentToken(
            node_id=node_id,
            address=request.address or self._gate.address,
            certificate_sha256=self._gate.certificate_sha256,
            secret=request.token_secret,
        )
        response = pb.InviteNodeResponse(
            token=format_enrolment_token(token), address=token.address, position=committed.position
        )
        response.expires_at.CopyFrom(committed.events[0].message.expires_at)  # type: ignore[attr-defined]
        return response

    async def enroll(self, node_id: NodeId, token_sha256: str, request: pb.EnrollNodeRequest) -> Position:
        """Register the credential of a machine that handed its token in.

        Raises:
            InvalidInput: the request is wrong.
            Rejected: the token lets nobody in (TOKEN_USED, TOKEN_EXPIRED, TOKEN_REPLACED, TOKEN_WITHDRAWN).
            IdReused: the request_id came with another request before.
            Unavailable: the log did not answer; the same request may be tried again.
        """
        _check_secret("credential", request.credential)
        _check_secret("bus_password", request.bus_password)
        hashed = bcrypt.hashpw(request.bus_password.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS))
        enroll = Enroll(
            node_id,
            token_sha256,
            secret_sha256(request.credential),
            hashed.decode(),
            request.inventory,
            self._clock.now(),
        )
        return (await self._transact("EnrollNode", request, node_id, enroll)).position

    async def revoke(self, request: pb.RevokeNodeRequest) -> Shown:
        """Take a node's credential away; asking again is not an error.

        Raises:
            InvalidInput: the request is wrong.
            Rejected: there is no such node, or its credential stands in the tokens file.
            IdReused: the request_id came with another request before.
            Unavailable: the log did not answer; the same request may be tried again.
        """
        _check_node(request.node_id)
        if len(request.reason) > REASON_LENGTH_MAX:
            raise _wrong("reason", f"want at most {REASON_LENGTH_MAX} characters")
        node_id = NodeId(request.node_id)
        await self._transact("RevokeNode", request, node_id, Revoke(node_id, request.reason), may_be_so=True)
        return await self._shown(node_id)

    async def _transact(
        self, method: str, request: Message, node_id: NodeId, command: NodeCommand, *, may_be_so: bool = False
    ) -> Committed:
        async def decide() -> Sequence[Change]:
            entry = self._ledger.world.node(node_id)
            decided = node_domain.decide(entry.node, command)
            context = request_context(SERVICE)
            return (
                [change("node", node_id, entry.version, decided, context, self._clock.now())]
                if decided
                else []
            )

        asked = command_id(SERVICE, method, request.request_id)  # type: ignore[attr-defined]
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        # The first time may have made what a repetition would be refused for.
        committed = await self._ledger.committed(asked, digest)
        if committed is None:
            committed = await self._ledger.transact(asked, decide, digest)
        if committed is None:
            if not may_be_so:
                raise AssertionError(f"{method} always makes events")
            return Committed(self._ledger.known_position, ())
        for event in committed.events:
            self._credentials.apply(event)
        return committed

    async def _shown(self, node_id: NodeId) -> Shown:
        node: Node | None = None
        for event in await load(self._ledger.log, stream_name("node", node_id)):
            node = node_after(node, event)
        if node is None:
            raise AssertionError("a revoked node has at least one event")
        return Shown(node, Position(node.position))


def _check_invitation(request: pb.InviteNodeRequest) -> None:
    _check_node(request.node_id)
    _check_secret("token_secret", request.token_secret)
    if not 0 <= request.valid_seconds <= VALID_SECONDS_MAX:
        raise _wrong("valid_seconds", "want one second to 30 days, or 0 for an hour")
    if request.address and not is_address(request.address):
        raise _wrong("address", "want host:port")


def _check_node(node_id: str) -> None:
    if not is_name(node_id):
        raise InvalidInput(
            f"{node_id!r} cannot name a node: want 1 to 63 of a-z, 0-9 and '-'",
            code="BAD_NODE_NAME",
            field_violations={"node_id": "not a name"},
        )


def _check_secret(field: str, secret: str) -> None:
    if not is_secret(secret):
        raise _wrong(field, "want 32 random bytes in base64url: 43 characters")


def _wrong(field: str, what: str) -> InvalidInput:
    return InvalidInput(f"{field}: {what}", field_violations={field: what})
