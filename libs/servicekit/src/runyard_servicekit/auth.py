"""Who is calling: bearer tokens, known by their hashes."""

from __future__ import annotations

import hashlib
import json
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runyard.event.v1.envelope_pb2 import Actor
from runyard_contracts.envelope import actor_name, parse_actor
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


class Tokens:
    """The tokens file, read again when it changes, so that a token can be added or revoked live."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not ``{"tokens": [{"sha256", "actor", "roles"}]}``.
        """
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._callers: dict[str, Caller] = {}
        self._read_when_changed()

    def find(self, sha256: str) -> Caller | None:
        """Give the caller that holds the token with this hash; None when nobody does.

        Looking up by hash takes the same time whatever the token holds.
        """
        self._read_when_changed()
        return self._callers.get(sha256)

    def _read_when_changed(self) -> None:
        stat = self._path.stat()
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen != self._seen:
            self._callers = _parse(self._path.read_text())
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
            Unauthenticated: the token is unknown or revoked.
            Unavailable: that cannot be said now.
        """
        sha256 = hashlib.sha256(token.encode()).hexdigest()
        caller = self._tokens.find(sha256)
        if caller is None and self._nodes is not None:
            caller = self._nodes.caller(sha256)
        if caller is None:
            raise Unauthenticated("the token is unknown or revoked; ask for a new one", code="UNKNOWN_TOKEN")
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


def _parse(text: str) -> dict[str, Caller]:
    callers = {}
    for entry in json.loads(text)["tokens"]:
        roles = frozenset(entry["roles"])
        if not roles <= ROLES:
            raise ValueError(f"unknown roles in the tokens file: {sorted(roles - ROLES)}")
        callers[entry["sha256"]] = Caller(actor=parse_actor(entry["actor"]), roles=roles)
    return callers
