"""Reads the names by which people and runs call a file: a SHA-256, a prefix of it, or "datum://..."."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runyard_core.errors import InvalidInput

DATUM_SCHEME = "datum://"
UNRESOLVED_SCHEMES = ("http://", "https://", "s3://", "gs://", "file://")
"""References that the service does not know; the agent fetches and hashes them."""

KEY_PREFIX = "blobs/sha256/"
"""What the key of every file begins with."""

_DIGITS = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class DatumName:
    """The first 8 to 64 digits of a file's SHA-256."""

    prefix: str

    @property
    def is_whole(self) -> bool:
        """True when all 64 digits are there."""
        return len(self.prefix) == 64


def is_datum_uri(uri: str) -> bool:
    """Say whether a reference is to a file of this service."""
    return uri.startswith(DATUM_SCHEME)


def is_unresolved_uri(uri: str) -> bool:
    """Say whether a reference is to a place outside."""
    return uri.startswith(UNRESOLVED_SCHEMES)


def parse_datum_name(text: str) -> DatumName:
    """Read a SHA-256, a prefix of at least 8 digits, or either after "datum://".

    Raises:
        InvalidInput: BAD_DATUM.
    """
    digits = text.removeprefix(DATUM_SCHEME).lower()
    if _DIGITS.fullmatch(digits) is None:
        raise InvalidInput(
            f"{text[:120]!r} names no file: want {DATUM_SCHEME} and a SHA-256 or its first 8 digits or more",
            code="BAD_DATUM",
        )
    return DatumName(digits)


def object_key(sha256: str) -> str:
    """Give the key under which the store keeps a file's bytes."""
    return f"{KEY_PREFIX}{sha256[:2]}/{sha256[2:4]}/{sha256}"
