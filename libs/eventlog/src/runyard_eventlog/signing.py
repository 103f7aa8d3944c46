"""The Ed25519 key that signs segments, and the public keys that check them.

``python -m runyard_eventlog.signing FILE`` makes a key, and leaves alone one that is there.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runyard_core.errors import InvalidInput
from runyard_eventlog.key_file import create_key_file, read_key_file, read_public_key_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_CONTEXT = b"runyard segment root v1\n"


class PublicKey:
    """Checks signatures."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        """Take a key."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._key = key
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = hashlib.sha256(raw).hexdigest()[:16]
        """First 16 hexadecimal digits of the SHA-256 of the raw key."""
        self.pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        """The key as it is published."""

    @classmethod
    def of_pem(cls, pem: bytes, name: str = "the key") -> PublicKey:
        """Read a published key.

        Raises:
            InvalidInput: it is not an Ed25519 public key in PEM form.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidInput(f"{name} is not a public key in PEM form", code="BAD_KEY_FILE") from error
        if not isinstance(key, Ed25519PublicKey):
            raise InvalidInput(f"{name} is a public key, but not of Ed25519", code="BAD_KEY_FILE")
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> PublicKey:
        """Read a published key from a file.

        Raises:
            InvalidInput: the file cannot be read, or is not such a key.
        """
        return cls.of_pem(read_public_key_file(path), str(path))

    def has_signed(self, segment_root: bytes, signature: bytes) -> bool:
        """Say whether this key signed a segment root."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, _CONTEXT + segment_root)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """Signs segment roots; its file is read by its owner alone."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """Take a key."""
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def load_or_create(cls, path: Path) -> SigningKey:
        """Read the key file, or make it (mode 0600) with the public key beside it as ``<name>.pub``.

        Raises:
            InvalidInput: the file is not an Ed25519 private key in PEM form, or others may read it.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if not path.exists():
            _create(path, Ed25519PrivateKey.generate())
        key = cls.load(path)
        published = public_key_path(path)
        if not published.exists() or published.read_bytes() != key.public.pem:
            published.write_bytes(key.public.pem)
        return key

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read the key file.

        Raises:
            InvalidInput: it is missing, is not an Ed25519 private key in PEM form, or others may read it.
        """
        return cls(_load(path))

    def sign(self, segment_root: bytes) -> bytes:
        """Sign a segment root; the same root always gets the same 64 bytes."""
        return self._key.sign(_CONTEXT + segment_root)


def public_key_path(path: Path) -> Path:
    """Give the file of the public key that belongs to a key file."""
    return path.with_name(f"{path.name}.pub")


def _create(path: Path, key: Ed25519PrivateKey) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path.parent.mkdir(parents=True, exist_ok=True)
    create_key_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _load(path: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_key_file(path)
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{path} is not a private key in PEM form", code="BAD_KEY_FILE") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(f"{path} is a private key, but not of Ed25519", code="BAD_KEY_FILE")
    return key


def main() -> None:
    """Make the key file that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("want the file of the key")
    try:
        key = SigningKey.load_or_create(Path(sys.argv[1]))
    except (InvalidInput, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(f"key {key.public.key_id}: its public half is {public_key_path(Path(sys.argv[1]))}\n")


if __name__ == "__main__":
    main()
