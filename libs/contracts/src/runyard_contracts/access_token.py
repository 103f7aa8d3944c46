"""The text of an access token: what a person carries from the yard to where they or their programs work."""

from __future__ import annotations

from runyard.access.v1.access_token_pb2 import AccessToken
from runyard_contracts.token_text import ACCESS, read_token, write_token


def format_access_token(token: AccessToken) -> str:
    """Write a token."""
    return write_token(ACCESS, token)


def parse_access_token(text: str) -> AccessToken:
    """Read a token.

    Raises:
        TokenError: it is none, or not a whole one.
    """
    return read_token(ACCESS, text, AccessToken)
