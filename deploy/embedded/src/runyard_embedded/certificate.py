"""Makes what the gate shows: an authority once in a yard's life, and what it signs whenever that is due.

``python -m runyard_embedded.certificate [--now] AUTHORITY_FILE AUTHORITY_KEY_FILE CERTIFICATE_FILE`` is a
process that ends, as its library takes 15 MB; it prints when to look again. Others know the authority by its
SHA-256, which every token carries, and believe no other: it has no end, and what it signs is short-lived.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runyard_contracts import gate

VALID_DAYS = 90
RENEWED_DAYS_BEFORE = 30
"""A yard that is down for two months starts with a certificate that is still good, or makes the next."""

_NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""How certificates say that they have no end (RFC 5280, 4.1.2.5)."""
_CLOCKS_DIFFER = timedelta(days=1)


def make_authority(certificate_file: Path, key_file: Path, now: datetime) -> None:
    """Write a new key (0600) and its certificate, unless there is a key."""
    if key_file.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("authority of a Runyard yard")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _begun(name, name, key, now, _NEVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
    # Last: where there is a key, there is its certificate.
    _write(key_file, _key_pem(key))


def renew(
    authority_file: Path, authority_key_file: Path, certificate_file: Path, now: datetime, *, force: bool
) -> datetime:
    """Write the gate's next certificate if it is due; give when the one after it is.

    Args:
        authority_file: PEM.
        authority_key_file: PEM.
        certificate_file: gets key, certificate and authority (PEM, 0600) in one step, so that whoever reads
            it gets what belongs together.
        now: the time.
        force: also when it is not due.

    Raises:
        ValueError: the authority cannot be read.
    """
    authority = x509.load_pem_x509_certificate(authority_file.read_bytes())
    current = _current(certificate_file, authority)
    if not force and current is not None and now < _due(current) and current.not_valid_before_utc <= now:
        return _due(current)
    authority_key = serialization.load_pem_private_key(authority_key_file.read_bytes(), password=None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{authority_key_file} holds another kind of key than we make")  # noqa: TRY004
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _begun(_name("gate of a Runyard yard"), authority.subject, key, now, now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in gate.NAMES]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer_key_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    _write(certificate_file, _key_pem(key) + certificate.public_bytes(pem) + authority.public_bytes(pem))
    return _due(certificate)


def _current(certificate_file: Path, authority: x509.Certificate) -> x509.Certificate | None:
    """Give the certificate that is shown now; None when there is none that can go on being shown."""
    try:
        shown = x509.load_pem_x509_certificates(certificate_file.read_bytes())
        current = shown[0]
        current.verify_directly_issued_by(authority)
        names = current.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return None  # whatever is wrong with it, the next one takes its place
    is_for_all = set(names.get_values_for_type(x509.DNSName)) == set(gate.NAMES)
    return current if is_for_all and shown[1:] == [authority] else None


def _due(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc - timedelta(days=RENEWED_DAYS_BEFORE)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(until)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)  # an authority that was told to others must be there after a power cut
    new.rename(path)


def main() -> None:
    """Make what is missing or due, and print when to look again."""
    parser = argparse.ArgumentParser(prog="python -m runyard_embedded.certificate")
    parser.add_argument("--now", action="store_true", help="make the next certificate, due or not")
    parser.add_argument("authority", type=Path)
    parser.add_argument("authority_key", type=Path)
    parser.add_argument("certificate", type=Path)
    given = parser.parse_args()
    now = datetime.now(UTC)
    make_authority(given.authority, given.authority_key, now)
    due = renew(given.authority, given.authority_key, given.certificate, now, force=given.now)
    sys.stdout.write(due.isoformat() + "\n")


if __name__ == "__main__":
    main()
