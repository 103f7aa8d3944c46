"""``runyard.run.v1.SecretService``: from requests to the log and the store of secrets, and back."""

# ruff: noqa: ARG002 - every method has gRPC's signature

from __future__ import annotations

from runyard.run.v1 import secret_service_pb2 as pb
from runyard.run.v1 import secret_service_pb2_grpc
from runyard_scheduler.secret_handlers import SecretHandlers
from runyard_scheduler.secrets import Secrets
from runyard_servicekit.auth import require_role


class SecretServicer(secret_service_pb2_grpc.SecretServiceServicer):
    """Serves clients; nobody gets a value back."""

    def __init__(self, handlers: SecretHandlers, secrets: Secrets) -> None:
        """Change by these handlers, answer from this store."""
        self._handlers = handlers
        self._secrets = secrets

    async def SetSecret(self, request: pb.SetSecretRequest, context: object) -> pb.SetSecretResponse:
        """Keep a secret."""
        require_role("client")
        return pb.SetSecretResponse(secret=await self._handlers.put(request))

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: object) -> pb.ListSecretsResponse:
        """Name the secrets of a project."""
        require_role("client")
        return pb.ListSecretsResponse(secrets=await self._secrets.names(request.project))

    async def RemoveSecret(self, request: pb.RemoveSecretRequest, context: object) -> pb.RemoveSecretResponse:
        """Forget a secret."""
        require_role("client")
        return pb.RemoveSecretResponse(removed=await self._handlers.remove(request))
