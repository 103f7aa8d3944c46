"""Stream ``node-<id>``: who may be this node. Invited by a token, let in once, revoked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from google.protobuf.message import Message

from runyard.node.v1 import events_pb2 as ev
from runyard.node.v1.types_pb2 import NodeInventory
from runyard_contracts.ids import NodeId
from runyard_core.errors import Rejected


@dataclass(frozen=True, slots=True)
class Access:
    """What decisions need to know of how a machine becomes this node."""

    token_sha256: str = ""
    """Of the newest token; empty when nobody was ever invited."""
    token_expires_at: datetime | None = None
    token_spent: bool = False
    """Handed in, or withdrawn by a revocation."""
    credential_sha256: str = ""
    """Empty when none is valid."""
    revoked: bool = False
    """Taken away, and no other has taken its place."""

    @property
    def is_known(self) -> bool:
        """Say whether somebody was ever invited; others have their credential from the yard's tokens file."""
        return bool(self.token_sha256)

    @property
    def is_void(self) -> bool:
        """Say whether neither token nor credential lets anybody in."""
        return self.token_spent and not self.credential_sha256


NOBODY = Access()
"""Nobody was ever invited."""


@dataclass(frozen=True, slots=True)
class Invite:
    """Somebody wants a machine to enroll under this name."""

    node_id: NodeId
    token_sha256: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Enroll:
    """A machine hands in a token, and brings the hashes of its credential."""

    node_id: NodeId
    token_sha256: str
    credential_sha256: str
    bus_password_bcrypt: str
    inventory: NodeInventory
    at: datetime


@dataclass(frozen=True, slots=True)
class Revoke:
    """Somebody wants the machine out."""

    node_id: NodeId
    reason: str


def invite(access: Access, command: Invite, *, attached: bool) -> list[Message]:
    """Give the events of an invitation. An earlier token that nobody handed in is void with it.

    Raises:
        Rejected: NODE_NAME_TAKEN, an agent with a credential of the tokens file is attached under this name.
    """
    if attached and not access.is_known:
        raise Rejected(
            f"an agent of the yard itself is attached as {command.node_id}: choose another name",
            code="NODE_NAME_TAKEN",
        )
    invited = ev.NodeInvited(node_id=command.node_id, token_sha256=command.token_sha256)
    invited.expires_at.FromDatetime(command.expires_at)
    return [invited]


def enroll(access: Access, command: Enroll) -> list[Message]:
    """Give the event of a machine that is let in.

    Raises:
        Rejected: TOKEN_USED, TOKEN_REPLACED (by a newer one), TOKEN_WITHDRAWN or TOKEN_EXPIRED.
    """
    node_id, advice = command.node_id, f"ask for a new one: runyard nodes invite {command.node_id}"
    if access.token_sha256 != command.token_sha256:
        raise Rejected(
            f"this token for {node_id} was replaced by a newer one; use that, or {advice}",
            code="TOKEN_REPLACED",
        )
    if access.token_spent and access.revoked:
        raise Rejected(f"the token for {node_id} was withdrawn; {advice}", code="TOKEN_WITHDRAWN")
    if access.token_spent:
        raise Rejected(f"the token for {node_id} was used before; {advice}", code="TOKEN_USED")
    if access.token_expires_at is None or command.at >= access.token_expires_at:
        raise Rejected(f"the token for {node_id} has expired; {advice}", code="TOKEN_EXPIRED")
    return [
        ev.NodeCredentialIssued(
            node_id=node_id,
            token_sha256=command.token_sha256,
            credential_sha256=command.credential_sha256,
            bus_password_bcrypt=command.bus_password_bcrypt,
        )
    ]


def revoke(access: Access, command: Revoke, *, attached: bool) -> list[Message]:
    """Give the events of a revocation; none when there is nothing left to take away.

    Raises:
        Rejected: NOT_ENROLLED_BY_TOKEN, its credential stands in the yard's tokens file.
    """
    if not access.is_known:
        raise Rejected(
            f"node {command.node_id} has its credential from the yard's tokens file: take it out there",
            code="NOT_ENROLLED_BY_TOKEN",
        )
    if access.is_void:
        return []
    events: list[Message] = [
        ev.NodeRevoked(
            node_id=command.node_id, reason=command.reason, credential_sha256=access.credential_sha256
        )
    ]
    if attached:
        events.append(ev.NodeDetached(node_id=command.node_id, reason="revoked"))
    return events


def access_after(access: Access, event: Message) -> Access:
    """Give the access after an event; other events leave it as it is."""
    match event:
        case ev.NodeInvited():
            expires_at = event.expires_at.ToDatetime(UTC)
            return replace(
                access, token_sha256=event.token_sha256, token_expires_at=expires_at, token_spent=False
            )
        case ev.NodeCredentialIssued():
            credential = event.credential_sha256
            return replace(access, token_spent=True, credential_sha256=credential, revoked=False)
        case ev.NodeRevoked():
            return replace(access, token_spent=True, credential_sha256="", revoked=True)
        case _:
            return access
