"""Cuts a file into the parts in which it is uploaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MEBIBYTE = 1024 * 1024

SINGLE_PART_BYTES_MAX = 64 * MEBIBYTE
"""Larger files go up in parts, unless one request was asked for."""

ONE_REQUEST_BYTES_MAX = 4 * 1024 * MEBIBYTE
"""Larger files go up in parts whatever was asked for. S3 takes 5 GiB in one request."""

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


def part_bytes(size_bytes: int) -> int:
    """Give the size of every part but the last of a file that goes up in parts, in bytes."""
    wanted = -(-size_bytes // PART_COUNT_MIN)
    rounded = -(-wanted // MEBIBYTE) * MEBIBYTE
    return min(rounded, PART_BYTES_MAX)


def plan_parts(size_bytes: int, *, in_one_request: bool = False) -> Iterator[Part]:
    """Give the parts of a file in order; together they are the file. An empty file is one empty part.

    Args:
        size_bytes: of the file.
        in_one_request: one part is asked for, and is given up to ``ONE_REQUEST_BYTES_MAX``.
    """
    if size_bytes <= (ONE_REQUEST_BYTES_MAX if in_one_request else SINGLE_PART_BYTES_MAX):
        yield Part(number=1, offset_bytes=0, size_bytes=size_bytes)
        return
    step = part_bytes(size_bytes)
    for number, offset_bytes in enumerate(range(0, size_bytes, step), start=1):
        yield Part(number=number, offset_bytes=offset_bytes, size_bytes=min(step, size_bytes - offset_bytes))
