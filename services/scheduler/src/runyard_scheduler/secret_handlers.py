"""What clients ask for about secrets: the log tells who changed which name, the store keeps the value."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from runyard.run.v1.secret_service_pb2 import RemoveSecretRequest, Secret, SetSecretRequest
from runyard_contracts.ids import CommandId
from runyard_core.clock import Clock
from runyard_scheduler.changes import SERVICE, Change, change
from runyard_scheduler.domain import project as project_domain
from runyard_scheduler.domain.project import RemoveSecret, SetSecret
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.secrets import Secrets
from runyard_servicekit.auth import current_caller
from runyard_servicekit.context import command_id, request_context


class SecretHandlers:
    """Runs the commands about secrets. Call within an RPC: the caller is part of each command.

    The event comes first: a change that nobody hears of is worse than one that is told of and, when the
    database fails right then, has to be asked for again.
    """

    def __init__(self, ledger: Ledger, secrets: Secrets, clock: Clock) -> None:
        """Tell this ledger's log what this store is asked to do."""
        self._ledger = ledger
        self._secrets = secrets
        self._clock = clock

    async def put(self, request: SetSecretRequest) -> Secret:
        """Keep a secret; it replaces the one of that name.

        Raises:
            InvalidInput: the project, name or value cannot be, or no request_id.
            Rejected: the scheduler has no key (NO_YARD_KEY).
            ResourceExhausted: the project has as many others as it may.
            IdReused: the request_id came with another request before.
            Unavailable: the database does not answer; the same request may be tried again.
        """
        replaced = await self._secrets.check_put(request.project, request.name, request.value)
        await self._tell(
            "SetSecret", request.request_id, SetSecret(request.project, request.name, replaced=replaced)
        )
        return await self._secrets.put(request.project, request.name, request.value, current_caller().name)

    async def remove(self, request: RemoveSecretRequest) -> bool:
        """Forget a secret; False when there is none of that name. A repeated request gets its first answer.

        Raises:
            InvalidInput: not the name of a project, or no request_id.
            IdReused: the request_id came with another request before.
            Unavailable: the database does not answer; the same request may be tried again.
        """
        if not await self._secrets.has(request.project, request.name):
            command, digest = _command("RemoveSecret", request.request_id, request.project, request.name)
            return await self._ledger.committed(command, digest) is not None
        await self._tell("RemoveSecret", request.request_id, RemoveSecret(request.project, request.name))
        return await self._secrets.remove(request.project, request.name)

    async def _tell(self, method: str, request_id: str, command: SetSecret | RemoveSecret) -> None:
        async def decide() -> Sequence[Change]:
            entry = self._ledger.world.project(command.project)
            decided = project_domain.decide(entry.project, command)
            context = request_context(SERVICE)
            return [change("project", command.project, entry.version, decided, context, self._clock.now())]

        asked, digest = _command(method, request_id, command.project, command.name)
        await self._ledger.transact(asked, decide, digest)


def _command(method: str, request_id: str, project: str, name: str) -> tuple[CommandId, bytes]:
    """Give id and digest of a request."""
    # Of the names alone: from a digest of the value somebody could guess it.
    digest = hashlib.sha256(f"{method}\n{project}\n{name}".encode()).digest()
    return command_id(SERVICE, method, request_id), digest
