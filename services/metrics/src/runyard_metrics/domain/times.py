"""Times as agents say them, in milliseconds since 1970."""

from __future__ import annotations

_LAST = 253_402_300_799_999
"""The end of the year 9999."""


def is_time(unix_milliseconds: int) -> bool:
    """Say whether there is such a time: an answer can hold no other."""
    return 0 <= unix_milliseconds <= _LAST
