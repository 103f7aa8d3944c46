"""How tokens are written that a person carries: a prefix that says what for, base64url, and a checksum.

The checksum tells a token that lost a character on the way from one that the yard does not know.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

SECRET_BYTES = 32
FINGERPRINT_BYTES = 32
_CHECKSUM_BYTES = 4
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PORT_MAX = 65_535


def write_token(prefix: str, payload: bytes) -> str:
    """Write what a token holds."""
    return prefix + base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip("=")


def read_token(prefix: str, text: str) -> bytes | None:
    """Give what a token holds; None when the text is not a whole one. It begins with the prefix."""
    body = text.removeprefix(prefix)
    try:
        content = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    payload, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    return payload if checksum == _checksum(payload) else None


def is_secret(text: str) -> bool:
    """Say whether a text can be the secret of a token: 32 bytes in base64url."""
    return _SECRET.fullmatch(text) is not None


def is_address(text: str) -> bool:
    """Say whether a text is host:port."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and 0 < int(found[2]) <= _PORT_MAX


def secret_sha256(secret: str) -> str:
    """Give the hash under which the yard knows a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECKSUM_BYTES]
