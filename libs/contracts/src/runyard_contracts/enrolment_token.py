"""The text of an enrolment token: what a person carries from the yard to a machine that shall become a node.

``rye1.`` and base64url of an ``EnrolmentToken`` and four bytes of its checksum, so that a token which lost a
character on the way is told from one that the yard does not know.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from google.protobuf.message import DecodeError

from runyard.node.v1.enrolment_service_pb2 import EnrolmentToken
from runyard_contracts.ids import is_name

PREFIX = "rye1."
SECRET_BYTES = 32
FINGERPRINT_BYTES = 32
_CHECKSUM_BYTES = 4
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PORT_MAX = 65_535


class EnrolmentTokenError(ValueError):
    """A text that is no enrolment token, or not a whole one; its words are for people."""


def format_token(token: EnrolmentToken) -> str:
    """Write a token."""
    payload = token.SerializeToString(deterministic=True)
    return PREFIX + base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip("=")


def parse_token(text: str) -> EnrolmentToken:
    """Read a token.

    Raises:
        EnrolmentTokenError: it is none, or not a whole one.
    """
    body = text.strip()
    if not body.startswith(PREFIX):
        raise EnrolmentTokenError(f"this is no enrolment token: one begins with {PREFIX}")
    body = body.removeprefix(PREFIX)
    try:
        content = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        payload, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        token = EnrolmentToken.FromString(payload)
    except (binascii.Error, ValueError, DecodeError) as error:
        raise _damaged() from error
    is_whole = (
        checksum == _checksum(payload)
        and is_name(token.node_id)
        and is_secret(token.secret)
        and is_address(token.address)
        and len(token.certificate_sha256) == FINGERPRINT_BYTES
    )
    if not is_whole:
        raise _damaged()
    return token


def is_secret(text: str) -> bool:
    """Say whether a text can be a secret of an enrolment: 32 bytes in base64url."""
    return _SECRET.fullmatch(text) is not None


def is_address(text: str) -> bool:
    """Say whether a text is host:port."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and 0 < int(found[2]) <= _PORT_MAX


def secret_sha256(secret: str) -> str:
    """Give the hash under which events and services know a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECKSUM_BYTES]


def _damaged() -> EnrolmentTokenError:
    return EnrolmentTokenError("the enrolment token is damaged: copy all of it, in one line")
