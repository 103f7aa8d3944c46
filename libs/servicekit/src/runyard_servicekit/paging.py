"""Pages of lists: the first page pins the position, so a walk is one consistent snapshot."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from runyard_core.errors import InvalidInput

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1_000


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where the next page starts."""

    position: int
    """The position that every page of this walk shows."""
    after: tuple[str | int, ...]
    """Sort key of the last item given."""


def page_size(requested: int) -> int:
    """Give the page size for a request: 0 means the default, more than the maximum means the maximum.

    Raises:
        InvalidInput: negative.
    """
    if requested < 0:
        raise InvalidInput(
            f"page_size is {requested}, want 0 to {PAGE_SIZE_MAX}", field_violations={"page_size": "negative"}
        )
    return min(requested or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def encode_page_token(token: PageToken, query: Sequence[str] = ()) -> str:
    """Write a token that is good for the same query only."""
    content = json.dumps([token.position, list(token.after), _digest(query)], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def decode_page_token(text: str, query: Sequence[str] = ()) -> PageToken | None:
    """Read a token back; None for an empty one, which asks for the first page.

    Raises:
        InvalidInput: not a token of ours, or of another query (BROKEN_PAGE_TOKEN).
    """
    if not text:
        return None
    try:
        padded = text + "=" * (-len(text) % 4)
        position, after, digest = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        token = PageToken(position=int(position), after=tuple(after))
    except (ValueError, TypeError, binascii.Error, UnicodeError) as error:
        raise _broken("it is not one that this service gave") from error
    if digest != _digest(query):
        raise _broken("it belongs to another query; keep filter and order the same over all pages")
    return token


def _digest(query: Sequence[str]) -> str:
    return hashlib.sha256("\x1f".join(query).encode()).hexdigest()[:16]


def _broken(why: str) -> InvalidInput:
    return InvalidInput(
        f"page_token cannot be used: {why}", code="BROKEN_PAGE_TOKEN", field_violations={"page_token": why}
    )
