"""The typed async client of Runyard's services. Depends on the contracts and gRPC alone."""

from runyard_client.client import Client
from runyard_client.context import Context, load_context, runyard_home, save_context
from runyard_client.errors import ClientError, Unreachable

__all__ = ["Client", "ClientError", "Context", "Unreachable", "load_context", "runyard_home", "save_context"]
