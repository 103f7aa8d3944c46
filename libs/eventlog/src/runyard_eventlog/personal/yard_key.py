"""The yard's key, a file: it wraps keys of persons and secrets for the database, and hashes persons' names.

Whoever has the database alone, or a backup of it, can neither open a name or a secret nor guess one.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from runyard_core.errors import Corrupt, InvalidInput
from runyard_eventlog.key_file import create_key_file, read_key_file

YARD_KEY_BYTES = 32

_NONCE_BYTES = 12


class YardKey:
    """Wraps keys, and hashes names."""

    def __init__(self, key: bytes) -> None:
        """Derive what is needed from a key of ``YARD_KEY_BYTES``."""
        self._wrapping = AESGCM(_derived(key, b"runyard wrap 1"))
        self._secrets = AESGCM(_derived(key, b"runyard secret 1"))
        self._naming = _derived(key, b"runyard name 1")

    def name_hash(self, name: str) -> bytes:
        """Give what a person is found by."""
        return hmac.digest(self._naming, name.encode(), "sha256")

    def wrap(self, person_id: bytes, key: bytes) -> bytes:
        """Seal the key of a person for the database."""
        return _seal(self._wrapping, key, person_id)

    def unwrap(self, person_id: bytes, wrapped_key: bytes) -> bytes:
        """Give the key of a person again.

        Raises:
            Corrupt: it was wrapped with another yard's key, or changed (WRONG_YARD_KEY).
        """
        return _open(self._wrapping, wrapped_key, person_id)

    def seal_secret(self, place: str, value: str) -> bytes:
        """Seal a secret for the database, where it can be opened at this place alone."""
        return _seal(self._secrets, value.encode(), place.encode())

    def open_secret(self, place: str, sealed: bytes) -> str:
        """Give a secret again.

        Raises:
            Corrupt: it was sealed with another yard's key or for another place, or changed (WRONG_YARD_KEY).
        """
        return _open(self._secrets, sealed, place.encode()).decode()


def create_yard_key(path: Path) -> None:
    """Draw a key into a new file (0600), whole or not at all; leaves one that is there.

    Raises:
        OSError: it cannot be written.
    """
    if not path.exists():
        create_key_file(path, os.urandom(YARD_KEY_BYTES).hex().encode() + b"\n")


def read_yard_key(path: Path) -> YardKey:
    """Read the key file.

    Raises:
        InvalidInput: it cannot be read (BAD_KEY_FILE), or others may read it (KEY_FILE_OPEN).
    """
    try:
        key = bytes.fromhex(read_key_file(path).decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != YARD_KEY_BYTES:
        raise InvalidInput(f"{path} does not hold {YARD_KEY_BYTES} bytes in hexadecimal", code="BAD_KEY_FILE")
    return YardKey(key)


def _seal(cipher: AESGCM, content: bytes, place: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, content, place)


def _open(cipher: AESGCM, sealed: bytes, place: bytes) -> bytes:
    try:
        return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
    except (InvalidTag, ValueError) as error:
        raise Corrupt(
            "the yard's key does not open what the database holds: it is another yard's key file",
            code="WRONG_YARD_KEY",
        ) from error


def _derived(key: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), YARD_KEY_BYTES, salt=None, info=purpose).derive(key)
