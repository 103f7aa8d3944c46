"""Counted things in words, for messages of every part."""

from __future__ import annotations


def count_words(count: int, one: str, many: str = "") -> str:
    """Count things: "1 file", "1,200 files"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
