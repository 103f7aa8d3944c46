"""The yard's gate as others know it: one address, one authority, and nobody else is believed.

The authority is a certificate that lasts as long as the yard and is known by its SHA-256, which every token
carries. The gate shows a short-lived certificate that the authority signed, so that it can be renewed at any
time and nobody outside notices.
"""

from __future__ import annotations

import _ssl
import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult

import grpc

from runyard_contracts import gate as names

CONNECT_SECONDS_MAX = 10.0

_CLOCK_ERRORS = frozenset({9, 10})
"""OpenSSL: the certificate is not valid yet, or not any more."""


class WrongCertificateError(Exception):
    """Somebody else answers at the gate's address; nothing was told to them. Its words are for people."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Where the yard is, and the authority that signs what it shows."""

    address: str
    """host:port."""
    certificate_pem: str
    """Of the authority."""

    def tls(self) -> ssl.SSLContext:
        """Give a context that believes this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.certificate_pem)
        return context

    def connect(self, name: str, timeout_seconds: float) -> ssl.SSLSocket:
        """Open a connection to what has this name behind the gate.

        Raises:
            OSError: the gate does not answer, or shows what the authority did not sign.
        """
        return _connect(self.address, self.tls(), name, timeout_seconds)

    def channel(self, name: str, options: Sequence[tuple[str, int | str]]) -> grpc.aio.Channel:
        """Open a channel to the service that has this name behind the gate."""
        return grpc.aio.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(root_certificates=self.certificate_pem.encode()),
            options=[*options, ("grpc.ssl_target_name_override", name)],
        )


class StoreConnection(http.client.HTTPConnection):
    """Speaks to the yard's own store as if beside it: what was signed for its own address stays valid."""

    def __init__(self, url: SplitResult, gate: Gate, stall_seconds_max: float, block_bytes: int) -> None:
        """Prepare; ``connect`` or the first request connects."""
        super().__init__(url.hostname or "", url.port, timeout=stall_seconds_max, blocksize=block_bytes)
        self._gate = gate
        self._stall_seconds_max = stall_seconds_max

    def connect(self) -> None:
        """Open TLS to the gate."""
        self.sock = self._gate.connect(names.STORE, CONNECT_SECONDS_MAX)
        self.sock.settimeout(self._stall_seconds_max)


def fetch_gate(address: str, certificate_sha256: bytes) -> Gate:
    """Connect for the first time, and keep the authority if it is the one that a token names.

    Raises:
        OSError: nobody answers there by TLS.
        WrongCertificateError: whoever answers was not signed by that authority, or not for this time.
    """
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the fingerprint is looked at instead
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    with _connect(address, unchecked, names.SCHEDULER, CONNECT_SECONDS_MAX) as connection:
        shown = _shown_chain(connection)
    hashes = [hashlib.sha256(certificate).digest() for certificate in shown]
    for certificate, sha256 in zip(shown, hashes, strict=True):
        if hmac.compare_digest(sha256, certificate_sha256):
            gate = Gate(address, ssl.DER_cert_to_PEM_cert(certificate))
            _require_signed(gate)
            return gate
    raise WrongCertificateError(
        f"{address} shows another authority (SHA-256 {hashes[-1].hex()}) than the token names: this is not "
        "the yard that made the token, or somebody stands between"
    )


def is_loopback(host: str) -> bool:
    """Say whether a presigned address means the yard's own store: from outside, the gate is the way to it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_and_port(address: str) -> tuple[str, int]:
    """Take host:port apart; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _require_signed(gate: Gate) -> None:
    # Anybody can show the authority's certificate, as everybody gets to see it; its signature they cannot.
    try:
        gate.connect(names.SCHEDULER, CONNECT_SECONDS_MAX).close()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _CLOCK_ERRORS:
            reason = f"{error.verify_message}: is the clock of this machine right?"
        else:
            reason = f"{error.verify_message}: somebody stands between"
        raise WrongCertificateError(
            f"{gate.address} shows a certificate that cannot be believed, {reason}"
        ) from error


def _connect(address: str, context: ssl.SSLContext, name: str, timeout_seconds: float) -> ssl.SSLSocket:
    raw = socket.create_connection(host_and_port(address), timeout=timeout_seconds)
    try:
        return context.wrap_socket(raw, server_hostname=name)
    except BaseException:
        raw.close()
        raise


def _shown_chain(connection: ssl.SSLSocket) -> Sequence[bytes]:
    """Give the certificates that the other side showed (DER), its own first."""
    if sys.version_info >= (3, 13):
        return connection.get_unverified_chain()
    # Until 3.13 made it public, it was there under the covers.
    chain = connection._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain]
