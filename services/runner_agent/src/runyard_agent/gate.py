"""The yard's gate as this machine knows it: one address, one certificate, and no other is believed.

A yard on the same machine has no gate: its services are spoken to on loopback, as they are.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from runyard_contracts import gate as names
from runyard_core.errors import PermissionDenied, Unavailable

_CONNECT_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Gate:
    """Where the yard is, and the certificate that it must show."""

    address: str
    """host:port."""
    certificate_pem: str

    def tls(self) -> ssl.SSLContext:
        """Give a context that believes this certificate alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.certificate_pem)
        return context

    def connect(self, name: str, timeout_seconds: float) -> ssl.SSLSocket:
        """Open a connection to what has this name behind the gate.

        Raises:
            OSError: the gate does not answer, or shows another certificate.
        """
        raw = socket.create_connection(host_and_port(self.address), timeout=timeout_seconds)
        try:
            return self.tls().wrap_socket(raw, server_hostname=name)
        except BaseException:
            raw.close()
            raise


def open_channel(
    address: str, gate: Gate | None, name: str, options: Sequence[tuple[str, int | str]]
) -> grpc.aio.Channel:
    """Open a channel to a service: through the gate by its name, or without one as it is."""
    if gate is None:
        return grpc.aio.insecure_channel(address, options=list(options))
    return grpc.aio.secure_channel(
        gate.address,
        grpc.ssl_channel_credentials(root_certificates=gate.certificate_pem.encode()),
        options=[*options, ("grpc.ssl_target_name_override", name)],
    )


def fetch_gate(address: str, certificate_sha256: bytes) -> Gate:
    """Connect for the first time, and keep the certificate if it is the one that the token names.

    Raises:
        Unavailable: nobody answers there by TLS (SERVER_UNREACHABLE).
        PermissionDenied: another certificate is shown there (WRONG_CERTIFICATE).
    """
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the fingerprint is looked at instead
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(host_and_port(address), timeout=_CONNECT_SECONDS_MAX) as raw,
            unchecked.wrap_socket(raw, server_hostname=names.SCHEDULER) as connection,
        ):
            certificate = connection.getpeercert(binary_form=True) or b""
    except OSError as error:
        raise Unavailable(
            f"no yard answers at {address}: {error}. Is the address right, and the port open from here?",
            code="SERVER_UNREACHABLE",
        ) from error
    shown = hashlib.sha256(certificate).digest()
    if not hmac.compare_digest(shown, certificate_sha256):
        raise PermissionDenied(
            f"{address} shows another certificate (SHA-256 {shown.hex()}) than the token names: this is not "
            "the yard that made the token, or somebody stands between",
            code="WRONG_CERTIFICATE",
        )
    return Gate(address, ssl.DER_cert_to_PEM_cert(certificate))


def host_and_port(address: str) -> tuple[str, int]:
    """Take host:port apart; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
