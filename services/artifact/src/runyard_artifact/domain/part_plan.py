"""Cuts a file into the parts in which it is uploaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MEBIBYTE = 1024 * 1024

SINGLE_PART_BYTES_MAX = 64 * MEBIBYTE
"""Larger files go up in parts."""

PART_BYTES_MAX = 64 * MEBIBYTE

PART_COUNT_MIN = 4
"""So many can be on their way at once; fewer, larger parts cost the store less (decision 0003)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of a file."""

    number: int
    """From 1, as the store counts."""
    offset_bytes: int
    size_bytes: int


def is_multipart(size_bytes: int) -> bool:
    """Say whether a file of this size goes up in several parts."""
    return size_bytes > SINGLE_PART_BYTES_MAX


def part_bytes(size_bytes: int) -> int:
    """Give the size of every part but the last, in bytes."""
    if not is_multipart(size_bytes):
        return size_bytes
    wanted = -(-size_bytes // PART_COUNT_MIN)
    rounded = -(-wanted // MEBIBYTE) * MEBIBYTE
    return min(rounded, PART_BYTES_MAX)


def plan_parts(size_bytes: int) -> Iterator[Part]:
    """Give the parts of a file in order; together they are the file. An empty file is one empty part."""
    if size_bytes == 0:
        yield Part(number=1, offset_bytes=0, size_bytes=0)
        return
    step = part_bytes(size_bytes)
    for number, offset_bytes in enumerate(range(0, size_bytes, step), start=1):
        yield Part(number=number, offset_bytes=offset_bytes, size_bytes=min(step, size_bytes - offset_bytes))
