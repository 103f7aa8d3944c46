"""``runyard.run.v1.SecretService``: from requests to the log and the store of secrets, and back."""

# ruff: noqa: ARG002 - every method has gRPC's signature

from __future__ import annotations

from runyard.run.v1 import secret_service_pb2 as pb
from runyard.run.v1 import secret_service_pb2_grpc
from runyard_eventlog.port import EventLog
from runyard_replay.reading.registered import project_as_of
from runyard_scheduler.queries import Queries
from runyard_scheduler.secret_handlers import SecretHandlers
from runyard_scheduler.secrets import Secrets
from runyard_servicekit.auth import require_role


class SecretServicer(secret_service_pb2_grpc.SecretServiceServicer):
    """Serves clients; nobody gets a value back."""

    def __init__(
        self, handlers: SecretHandlers, secrets: Secrets, queries: Queries, event_log: EventLog
    ) -> None:
        """Change by these handlers; answer from this store, and about the past from this log."""
        self._handlers = handlers
        self._secrets = secrets
        self._queries = queries
        self._log = event_log

    async def SetSecret(self, request: pb.SetSecretRequest, context: object) -> pb.SetSecretResponse:
        """Keep a secret."""
        require_role("client")
        return pb.SetSecretResponse(secret=await self._handlers.put(request))

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: object) -> pb.ListSecretsResponse:
        """Name the secrets of a project, as the store has them, or as the log had them at a moment."""
        require_role("client")
        now = await self._secrets.names(request.project)
        if not request.HasField("read"):
            return pb.ListSecretsResponse(secrets=now)
        position = await self._queries.position(request.read)
        fold = await project_as_of(self._log, request.project, position, with_names=False)
        return pb.ListSecretsResponse(secrets=fold.secrets(), position=position)

    async def RemoveSecret(self, request: pb.RemoveSecretRequest, context: object) -> pb.RemoveSecretResponse:
        """Forget a secret."""
        require_role("client")
        return pb.RemoveSecretResponse(removed=await self._handlers.remove(request))
