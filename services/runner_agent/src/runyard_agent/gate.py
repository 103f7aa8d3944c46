"""The agent's way to its yard: through the gate, or beside it as it is.

A yard on the same machine has no gate: its services are spoken to on loopback, as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from runyard_contracts import pinned_gate
from runyard_contracts.pinned_gate import Gate, WrongCertificateError
from runyard_core.errors import PermissionDenied, Unavailable

__all__ = ["Gate", "fetch_gate", "open_channel"]


def open_channel(
    address: str, gate: Gate | None, name: str, options: Sequence[tuple[str, int | str]]
) -> grpc.aio.Channel:
    """Open a channel to a service: through the gate by its name, or without one as it is."""
    if gate is None:
        return grpc.aio.insecure_channel(address, options=list(options))
    return gate.channel(name, options)


def fetch_gate(address: str, certificate_sha256: bytes) -> Gate:
    """Connect for the first time, and keep the authority if it is the one that the token names.

    Raises:
        Unavailable: nobody answers there by TLS (SERVER_UNREACHABLE).
        PermissionDenied: somebody else answers there (WRONG_CERTIFICATE).
    """
    try:
        return pinned_gate.fetch_gate(address, certificate_sha256)
    except WrongCertificateError as error:
        raise PermissionDenied(str(error), code="WRONG_CERTIFICATE") from error
    except OSError as error:
        raise Unavailable(
            f"no yard answers at {address}: {error}. Is the address right, and the port open from here?",
            code="SERVER_UNREACHABLE",
        ) from error
