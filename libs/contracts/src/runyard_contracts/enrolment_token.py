"""The text of an enrolment token: what a person carries from the yard to a machine that shall be a node."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from runyard.node.v1.enrolment_service_pb2 import EnrolmentToken
from runyard_contracts.ids import is_name
from runyard_contracts.token_text import (
    FINGERPRINT_BYTES,
    is_address,
    is_secret,
    read_token,
    secret_sha256,
    write_token,
)

__all__ = [
    "PREFIX",
    "EnrolmentTokenError",
    "format_token",
    "is_address",
    "is_secret",
    "parse_token",
    "secret_sha256",
]

PREFIX = "rye1."
_PREFIX_OF_PERSONS = "rya1."


class EnrolmentTokenError(ValueError):
    """A text that is no enrolment token, or not a whole one; its words are for people."""


def format_token(token: EnrolmentToken) -> str:
    """Write a token."""
    return write_token(PREFIX, token.SerializeToString(deterministic=True))


def parse_token(text: str) -> EnrolmentToken:
    """Read a token.

    Raises:
        EnrolmentTokenError: it is none, or not a whole one.
    """
    body = text.strip()
    if body.startswith(_PREFIX_OF_PERSONS):
        raise EnrolmentTokenError(
            "this token is a person's, for `runyard context join`: a machine gets one of "
            "`runyard nodes invite`"
        )
    if not body.startswith(PREFIX):
        raise EnrolmentTokenError(f"this is no enrolment token: one begins with {PREFIX}")
    try:
        token = EnrolmentToken.FromString(read_token(PREFIX, body) or b"")
    except DecodeError as error:
        raise _damaged() from error
    is_whole = (
        is_name(token.node_id)
        and is_secret(token.secret)
        and is_address(token.address)
        and len(token.certificate_sha256) == FINGERPRINT_BYTES
    )
    if not is_whole:
        raise _damaged()
    return token


def _damaged() -> EnrolmentTokenError:
    return EnrolmentTokenError("the enrolment token is damaged: copy all of it, in one line")
