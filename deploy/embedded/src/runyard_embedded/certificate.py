"""Makes the gate's certificate, once in a yard's life.

``python -m runyard_embedded.certificate FILE KEY_FILE``: a process that ends, as its library takes 15 MB.
Nobody signs the certificate. Machines know it by its SHA-256, which every enrolment token carries, and accept
no other.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runyard_contracts import gate

VALID_DAYS = 3_650
_CLOCKS_DIFFER_DAYS = 1


def make_certificate(certificate_file: Path, key_file: Path) -> None:
    """Write a new key (0600) and a certificate of it for the names of the gate.

    Raises:
        FileExistsError: there is a key.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gate of a Runyard yard")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=_CLOCKS_DIFFER_DAYS))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in gate.NAMES]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
    # Last: where there is a key, there is its certificate.
    _write(key_file, pem)


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    new.rename(path)


if __name__ == "__main__":
    make_certificate(Path(sys.argv[1]), Path(sys.argv[2]))
