"""Which machine holds which secret: folded from the log, so that what is revoked stays so.

Tokens of people and services stand in the tokens file (``auth``); those of enrolled nodes are known from the
events of their streams, in every service that nodes call and in whoever writes the bus's users.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Lane
from runyard.node.v1.events_pb2 import NodeCredentialIssued, NodeInvited, NodeRevoked
from runyard_contracts.ids import NodeId, Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Unauthenticated, Unavailable
from runyard_core.retry import Backoff, Retries, retried
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.subscriber import follow
from runyard_servicekit.auth import Caller

AGENT = "agent"
INVITED = "invited"
"""The role of a machine that shows an enrolment token: it may hand it in, and nothing else."""

_EVENT_TYPES = EventFilter(
    types=("runyard.node.credential_issued", "runyard.node.invited", "runyard.node.revoked")
)

_BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0)
_log = logging.getLogger(__name__)

Listener = Callable[[NodeId], None]


class Standing(enum.Enum):
    """What a known secret is good for."""

    TOKEN = enum.auto()
    """An enrolment token; whether it still lets anybody in is decided when it is handed in."""
    VALID = enum.auto()
    REPLACED = enum.auto()
    """Its node enrolled again."""
    REVOKED = enum.auto()


@dataclass(frozen=True, slots=True)
class _Secret:
    node_id: NodeId
    standing: Standing


@dataclass(frozen=True, slots=True)
class _Credential:
    sha256: str
    bus_password_bcrypt: str


class NodeCredentials:
    """The secrets of all nodes, by their hashes. Follows the log while ``follow`` runs."""

    def __init__(self) -> None:
        """Know nobody, until the log has been read."""
        self._secrets: dict[str, _Secret] = {}
        self._valid: dict[NodeId, _Credential] = {}
        self._applied: dict[NodeId, Position] = {}
        self._listeners: list[Listener] = []
        self.read = asyncio.Event()
        """Set when everything is known that the log held at the start of ``follow``."""

    def on_change(self, listener: Listener) -> None:
        """Call a function, which must return at once, when a node got, replaced or lost its credential."""
        self._listeners.append(listener)

    def caller(self, sha256: str) -> Caller | None:
        """Give who holds the secret with this hash; None when no node ever did.

        Raises:
            Unauthenticated: it was revoked (NODE_REVOKED) or replaced (CREDENTIAL_REPLACED).
            Unavailable: it is unknown, but the log has not been read to its end yet.
        """
        secret = self._secrets.get(sha256)
        if secret is None:
            if not self.read.is_set():
                raise Unavailable("credentials of nodes are still being read", code="CREDENTIALS_NOT_READ")
            return None
        match secret.standing:
            case Standing.REVOKED:
                raise Unauthenticated(f"node {secret.node_id} was revoked", code="NODE_REVOKED")
            case Standing.REPLACED:
                raise Unauthenticated(
                    f"node {secret.node_id} enrolled again and has another credential now",
                    code="CREDENTIAL_REPLACED",
                )
            case Standing.TOKEN:
                return Caller(_actor(secret.node_id), frozenset({INVITED}), token_sha256=sha256)
            case Standing.VALID:
                return Caller(_actor(secret.node_id), frozenset({AGENT}))
            case _:
                assert_never(secret.standing)

    def bus_passwords(self) -> Mapping[NodeId, str]:
        """Give the bcrypt hash of the bus password of every node that may connect."""
        return {node_id: credential.bus_password_bcrypt for node_id, credential in self._valid.items()}

    def apply(self, event: RecordedEvent) -> None:
        """Take an event of a node; one that was taken before does nothing."""
        message = event.message
        if not isinstance(message, NodeInvited | NodeCredentialIssued | NodeRevoked):
            return
        node_id = NodeId(message.node_id)
        if event.position <= self._applied.get(node_id, 0):
            return
        self._applied[node_id] = event.position
        if isinstance(message, NodeInvited):
            self._secrets[message.token_sha256] = _Secret(node_id, Standing.TOKEN)
            return
        former = self._valid.pop(node_id, None)
        if isinstance(message, NodeCredentialIssued):
            self._secrets[message.credential_sha256] = _Secret(node_id, Standing.VALID)
            self._valid[node_id] = _Credential(message.credential_sha256, message.bus_password_bcrypt)
        if former is not None:
            is_revoked = isinstance(message, NodeRevoked)
            standing = Standing.REVOKED if is_revoked else Standing.REPLACED
            self._secrets[former.sha256] = _Secret(node_id, standing)
        for listener in self._listeners:
            listener(node_id)

    async def follow(self, log: EventLog, doorbell: Doorbell | None = None) -> None:
        """Take what the log has and every later event, for ever. The log being away is waited out."""
        head = await retried(log.head, (Unavailable,), Retries("reading who may connect", _BACKOFF, _log))
        read_to = head.domain_position
        if read_to == 0:
            self.read.set()
        async for page in follow(log, Lane.LANE_DOMAIN, filter=_EVENT_TYPES, doorbell=doorbell):
            for event in page.events:
                self.apply(event)
            if page.scanned_to >= read_to:
                self.read.set()


def _actor(node_id: NodeId) -> Actor:
    return Actor(kind=ActorKind.ACTOR_KIND_AGENT, id=node_id)
