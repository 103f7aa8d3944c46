"""Enters a yard on another machine: from an access token to a context that believes this yard alone."""

from __future__ import annotations

from runyard_client.context import SERVICES, Context
from runyard_client.errors import ClientError, LocalError, UnreachableElsewhere
from runyard_contracts.access_token import parse_access_token
from runyard_contracts.pinned_gate import WrongCertificateError, fetch_gate
from runyard_contracts.token_text import TokenError, is_address


def enter(token_text: str, server: str = "") -> Context:
    """Look the token's yard up; blocks. Whether the yard still knows the token, the first call says.

    Args:
        token_text: from ``runyard people invite``.
        server: host:port of the yard's gate, when it is not as the token says.

    Raises:
        LocalError: ``BAD_TOKEN`` or ``BAD_SERVER``.
        UnreachableElsewhere: ``SERVER_UNREACHABLE``, nobody answers there by TLS.
        ClientError: ``WRONG_CERTIFICATE``, somebody else answers there; the token was not told to them.
    """
    try:
        token = parse_access_token(token_text)
    except TokenError as error:
        raise LocalError("BAD_TOKEN", str(error)) from None
    if server and not is_address(server):
        raise LocalError("BAD_SERVER", f"{server!r} is no server; want HOST:PORT")
    address = server or token.address
    try:
        gate = fetch_gate(address, token.certificate_sha256)
    except WrongCertificateError as error:
        raise ClientError("PERMISSION_DENIED", "WRONG_CERTIFICATE", str(error)) from None
    except OSError as error:
        message = f"no yard answers at {address}: {error}"
        raise UnreachableElsewhere("UNAVAILABLE", "SERVER_UNREACHABLE", message) from None
    return Context(dict.fromkeys(SERVICES, address), token.secret, gate.certificate_pem)
