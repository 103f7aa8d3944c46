"""Pages of lists: the first page pins the position, so a walk is one consistent snapshot.

A page ends by the number of its items, and by their size (``runyard_contracts.answer_size``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NewType, TypeVar, cast

from runyard.event.v1.read_pb2 import ReadOptions
from runyard_core.errors import InvalidInput

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1_000
_NUMBERS = range(-(2**63), 2**63)
"""What the database can compare a number with."""

After = TypeVar("After", bound=tuple[str | int, ...])

PageQuery = NewType("PageQuery", str)
"""Digest of what a list was asked for: the next page must be asked for the same."""


@dataclass(frozen=True, slots=True)
class PageToken(Generic[After]):
    """Where the next page starts."""

    position: int
    """The position that every page of this walk shows."""
    after: After
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


def page_query(*parts: str, read: ReadOptions | None) -> PageQuery:
    """Give what all pages of a walk have in common.

    A token keeps to the position of its own walk, so it must not be sent with another moment (AIP-158).

    Args:
        parts: whatever else decides which items there are and in which order.
        read: the moment that the request names; None for a list that cannot be asked for a past one.
    """
    moment = b"" if read is None else read.as_of.SerializeToString(deterministic=True)
    return PageQuery(hashlib.sha256("\x1f".join((*parts, moment.hex())).encode()).hexdigest()[:16])


def encode_page_token(token: PageToken[After], query: PageQuery) -> str:
    """Write a token that is good for the same query only."""
    content = json.dumps([token.position, list(token.after), query], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def decode_page_token(text: str, query: PageQuery, like: After) -> PageToken[After] | None:
    """Read a token back; None for an empty one, which asks for the first page.

    Args:
        text: what the caller sent.
        query: what it must have been written for.
        like: any sort key of this list, for its shape: a caller can write what looks like a token.

    Raises:
        InvalidInput: not a token of ours, or of another query (BROKEN_PAGE_TOKEN).
    """
    if not text:
        return None
    try:
        padded = text + "=" * (-len(text) % 4)
        position, after, digest = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        is_ours = _is_like((position, *after), (0, *like))
    except (ValueError, TypeError, binascii.Error, UnicodeError, RecursionError) as error:
        raise _broken("it is not one that this service gave") from error
    if digest != query:
        raise _broken("it belongs to another query; keep filter, order and as_of the same over all pages")
    if not is_ours:
        raise _broken("it is not one that this service gave")
    return PageToken(position, cast("After", tuple(after)))


def _is_like(given: Sequence[object], like: Sequence[object]) -> bool:
    return [type(part) for part in given] == [type(part) for part in like] and all(
        part in _NUMBERS if isinstance(part, int) else "\0" not in str(part) for part in given
    )


def _broken(why: str) -> InvalidInput:
    return InvalidInput(
        f"page_token cannot be used: {why}", code="BROKEN_PAGE_TOKEN", field_violations={"page_token": why}
    )
