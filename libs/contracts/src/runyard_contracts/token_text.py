"""How tokens are written that are carried by hand: a prefix that says what for, base64url, and a checksum.

The checksum tells a token that lost a character on the way from one that the yard does not know.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from google.protobuf.message import DecodeError

SECRET_BYTES = 32
FINGERPRINT_BYTES = 32
_CHECKSUM_BYTES = 4
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PORT_MAX = 65_535


class TokenError(ValueError):
    """A text that is no token of the kind wanted, or not a whole one; its words are for people."""


class CarriedMessage(Protocol):
    """What any token holds: where the yard's gate is, how to know it, and what to be known by."""

    address: str
    certificate_sha256: bytes
    secret: str

    @classmethod
    def FromString(cls, s: bytes, /) -> Self:
        """Read the bytes of a message."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """Give the bytes of the message."""


Carried = TypeVar("Carried", bound=CarriedMessage)


@dataclass(frozen=True, slots=True)
class TokenKind:
    """What a token is for, in the words that people are told."""

    prefix: str
    name: str
    bearer: str
    """Who gets one."""
    made_by: str
    """The command on the yard's machine that makes one."""
    taken_by: str
    """The command on the other machine that takes it."""


ACCESS = TokenKind(
    "rya1.", "access token", "a person", made_by="runyard people invite", taken_by="runyard context enter"
)
ENROLMENT = TokenKind(
    "rye1.", "enrolment token", "a machine", made_by="runyard nodes invite", taken_by="runyard-agent enroll"
)
_KINDS = (ACCESS, ENROLMENT)


def write_token(kind: TokenKind, token: CarriedMessage) -> str:
    """Write a token."""
    payload = token.SerializeToString(deterministic=True)
    return kind.prefix + base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip("=")


def read_token(kind: TokenKind, text: str, message: type[Carried]) -> Carried:
    """Read a token; white space around it does not count.

    Raises:
        TokenError: it is none of this kind, or not a whole one.
    """
    body = text.strip()
    for other in _KINDS:
        if other is not kind and body.startswith(other.prefix):
            raise TokenError(
                f"this token is {other.bearer}'s, for `{other.taken_by}`: {kind.bearer} gets one of "
                f"`{kind.made_by}`"
            )
    if not body.startswith(kind.prefix):
        raise TokenError(f"this is no {kind.name}: one begins with {kind.prefix}")
    try:
        token = message.FromString(_payload(body.removeprefix(kind.prefix)))
    except (DecodeError, ValueError) as error:
        raise damaged(kind) from error
    if not (
        is_secret(token.secret)
        and is_address(token.address)
        and len(token.certificate_sha256) == FINGERPRINT_BYTES
    ):
        raise damaged(kind)
    return token


def damaged(kind: TokenKind) -> TokenError:
    """Say that a token of this kind is not as it was made."""
    return TokenError(f"the {kind.name} is damaged: copy all of it, in one line")


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


def _payload(text: str) -> bytes:
    """Give the message's bytes; raises ValueError when the text is not as it was written."""
    content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    payload, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if checksum != _checksum(payload):
        raise ValueError("another checksum")
    return payload


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECKSUM_BYTES]
