"""Who is calling: bearer tokens, known by their hashes."""

from __future__ import annotations

import hashlib
import json
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from runyard.event.v1.envelope_pb2 import Actor
from runyard_contracts.envelope import actor_name, parse_actor
from runyard_core.clock import Clock, SystemClock
from runyard_core.errors import PermissionDenied, Unauthenticated

ROLES = frozenset({"client", "agent", "service"})


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller."""

    actor: Actor
    roles: frozenset[str]
    token_sha256: str = ""
    """Of the enrolment token that the caller showed; empty for everybody else."""

    @property
    def name(self) -> str:
        """The actor for people: "user:alice"."""
        return actor_name(self.actor)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A token as the file has it."""

    caller: Caller
    expires_at: datetime | None
    revoked: bool


class Tokens:
    """The tokens file, read again when it changes, so that a token can be added or revoked live."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        """Read the file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not ``{"tokens": [{"sha256", "actor", "roles", ...}]}``; an entry may have
                ``expires_at`` and ``revoked_at``, times with their zone (ISO 8601).
        """
        self._path = path
        self._clock = clock or SystemClock()
        self._seen: tuple[int, int, int] | None = None
        self._entries: dict[str, _Entry] = {}
        self._read_when_changed()

    def caller(self, sha256: str) -> Caller | None:
        """Give the caller that holds the token with this hash; None when nobody ever did.

        Looking up by hash takes the same time whatever the token holds.

        Raises:
            Unauthenticated: it was revoked (TOKEN_REVOKED), or its time is over (TOKEN_EXPIRED).
        """
        self._read_when_changed()
        entry = self._entries.get(sha256)
        if entry is None:
            return None
        name = entry.caller.actor.id
        if entry.revoked:
            raise Unauthenticated(
                f"this token of {name} was revoked; ask for a new one", code="TOKEN_REVOKED"
            )
        if entry.expires_at is not None and self._clock.now() >= entry.expires_at:
            raise Unauthenticated(
                f"this token of {name} has expired; ask for a new one", code="TOKEN_EXPIRED"
            )
        return entry.caller

    def _read_when_changed(self) -> None:
        stat = self._path.stat()
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen != self._seen:
            self._entries = _parse(self._path.read_text())
            self._seen = seen


class Directory(Protocol):
    """Somebody else who knows tokens: ``node_credentials.NodeCredentials``."""

    def caller(self, sha256: str) -> Caller | None:
        """Give the caller that holds the token with this hash; None when it is unknown here.

        Raises:
            Unauthenticated: it is known, and void.
            Unavailable: that cannot be said now.
        """
        ...


class Callers:
    """Everybody who may call a service: those of the tokens file, and enrolled nodes."""

    def __init__(self, tokens: Tokens, nodes: Directory | None = None) -> None:
        """Look in the file first, then among the nodes."""
        self._tokens = tokens
        self._nodes = nodes

    def caller(self, token: str) -> Caller:
        """Give the caller that holds a token.

        Raises:
            Unauthenticated: the token is unknown, revoked or expired.
            Unavailable: that cannot be said now.
        """
        sha256 = hashlib.sha256(token.encode()).hexdigest()
        caller = self._tokens.caller(sha256)
        if caller is None and self._nodes is not None:
            caller = self._nodes.caller(sha256)
        if caller is None:
            raise Unauthenticated(
                "the yard does not know this token; ask for a new one", code="UNKNOWN_TOKEN"
            )
        return caller


def current_caller() -> Caller:
    """Give the caller of the RPC that this task serves.

    Raises:
        Unauthenticated: outside of an authenticated RPC.
    """
    caller = _current.get()
    if caller is None:
        raise Unauthenticated("this call needs a token: send metadata 'authorization: Bearer <token>'")
    return caller


def require_role(*roles: str) -> Caller:
    """Give the current caller if it has one of these roles.

    Raises:
        Unauthenticated: outside of an authenticated RPC.
        PermissionDenied: the caller has none of them.
    """
    caller = current_caller()
    if caller.roles.isdisjoint(roles):
        wanted = " or ".join(sorted(roles))
        raise PermissionDenied(f"{caller.name} may not call this: it needs the role {wanted}")
    return caller


def set_current_caller(caller: Caller) -> None:
    """Name the caller of the RPC that this task serves: the interceptor's duty."""
    _current.set(caller)


_current: ContextVar[Caller | None] = ContextVar("runyard_caller", default=None)


def _parse(text: str) -> dict[str, _Entry]:
    entries = {}
    for entry in json.loads(text)["tokens"]:
        roles = frozenset(entry["roles"])
        if not roles <= ROLES:
            raise ValueError(f"unknown roles in the tokens file: {sorted(roles - ROLES)}")
        entries[entry["sha256"]] = _Entry(
            caller=Caller(actor=parse_actor(entry["actor"]), roles=roles),
            expires_at=_time(entry.get("expires_at")),
            revoked=bool(entry.get("revoked_at")),
        )
    return entries


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"a time in the tokens file lacks its zone: {text}")
    return time
