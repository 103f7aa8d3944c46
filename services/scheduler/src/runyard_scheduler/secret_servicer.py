"""``runyard.run.v1.SecretService``: from requests to the store of secrets and back."""

# ruff: noqa: ARG002 - every method has gRPC's signature

from __future__ import annotations

from runyard.run.v1 import secret_service_pb2 as pb
from runyard.run.v1 import secret_service_pb2_grpc
from runyard_scheduler.secrets import Secrets
from runyard_servicekit.auth import require_role


class SecretServicer(secret_service_pb2_grpc.SecretServiceServicer):
    """Serves clients; nobody gets a value back."""

    def __init__(self, secrets: Secrets) -> None:
        """Answer from this store."""
        self._secrets = secrets

    async def SetSecret(self, request: pb.SetSecretRequest, context: object) -> pb.SetSecretResponse:
        """Keep a secret. Doing it again changes nothing, so the request_id needs no memory."""
        caller = require_role("client")
        secret = await self._secrets.put(request.project, request.name, request.value, caller.name)
        return pb.SetSecretResponse(secret=secret)

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: object) -> pb.ListSecretsResponse:
        """Name the secrets of a project."""
        require_role("client")
        return pb.ListSecretsResponse(secrets=await self._secrets.names(request.project))

    async def RemoveSecret(self, request: pb.RemoveSecretRequest, context: object) -> pb.RemoveSecretResponse:
        """Forget a secret."""
        require_role("client")
        return pb.RemoveSecretResponse(removed=await self._secrets.remove(request.project, request.name))
