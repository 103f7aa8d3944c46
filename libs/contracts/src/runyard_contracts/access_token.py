"""The text of an access token: what a person carries from the yard to where they or their programs work."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from runyard.access.v1.access_token_pb2 import AccessToken
from runyard_contracts.token_text import FINGERPRINT_BYTES, is_address, is_secret, read_token, write_token

PREFIX = "rya1."
_PREFIX_OF_MACHINES = "rye1."


class AccessTokenError(ValueError):
    """A text that is no access token, or not a whole one; its words are for people."""


def format_access_token(token: AccessToken) -> str:
    """Write a token."""
    return write_token(PREFIX, token.SerializeToString(deterministic=True))


def parse_access_token(text: str) -> AccessToken:
    """Read a token.

    Raises:
        AccessTokenError: it is none, or not a whole one.
    """
    body = text.strip()
    if body.startswith(_PREFIX_OF_MACHINES):
        raise AccessTokenError(
            "this token is a machine's, for `runyard-agent enroll`: a person gets one of "
            "`runyard people invite`"
        )
    if not body.startswith(PREFIX):
        raise AccessTokenError(f"this is no access token: one begins with {PREFIX}")
    try:
        token = AccessToken.FromString(read_token(PREFIX, body) or b"")
    except DecodeError as error:
        raise _damaged() from error
    is_whole = (
        is_secret(token.secret)
        and is_address(token.address)
        and len(token.certificate_sha256) == FINGERPRINT_BYTES
    )
    if not is_whole:
        raise _damaged()
    return token


def _damaged() -> AccessTokenError:
    return AccessTokenError("the access token is damaged: copy all of it, in one line")
