"""Rows of the log column by column: as the database gives them fastest, and as a segment's file has them.

Where a value ends is told by a column, too. So equal columns are equal rows, comparing them is comparing
memory, and only what differs is taken apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

WIDTHS = (2, 8, 8, 8, 8, 16, 8, 8, 8)
"""Bytes of a row in each of ``StoredColumns.fixed``."""
BODIES = ("causation_id", "stream", "type", "correlation_id", "actor", "payload")
"""The columns whose values have any length, in the order of the canonical bytes."""

_FIXED_SQL = (
    *("int2send(lane)", "int8send(position)", "int8send(version)", "int8send(after_position)"),
    *("timestamptz_send(recorded_at)", "uuid_send(event_id)"),
    # Two lengths go into one number, as every value costs the database a call.
    "int8send((case when causation_id is null then 0 else 16 end)::bigint << 32 | octet_length(stream))",
    "int8send(octet_length(type)::bigint << 32 | octet_length(correlation_id))",
    "int8send(octet_length(actor)::bigint << 32 | octet_length(payload))",
)
_BODIES_SQL = (
    "string_agg(uuid_send(causation_id), ''::bytea)",
    *(f"convert_to(string_agg({name}, ''), 'UTF8')" for name in BODIES[1:-1]),
    "string_agg(payload, ''::bytea)",
)
_NEVER_NULL = (
    *("lane", "position", "version", "after_position", "recorded_at", "event_id"),
    *("stream", "type", "correlation_id", "actor", "payload"),
)
_LENGTH_COLUMNS = len(BODIES) // 2
_TWO_LENGTHS = struct.Struct(">II")

COLUMNS_SQL = ", ".join((*(f"string_agg({one}, ''::bytea)" for one in _FIXED_SQL), *_BODIES_SQL))
"""What puts rows together as ``StoredColumns.of_row`` takes them: a value for each column."""
WHOLE_SQL = " and ".join(f"{name} is not null" for name in _NEVER_NULL)
"""Holds for every row that the log can have. It is looked at, and a row without a value left out, only where
somebody took the constraints of the table away."""


class StoredColumns(NamedTuple):
    """Some rows of the log, in order."""

    fixed: tuple[bytes, ...]
    """Lane, position, version, after_position, recorded_at, event id, and the lengths of the bodies, two in a
    column: what the canonical bytes of a row begin with, column by column."""
    bodies: tuple[bytes, ...]
    """The values of each of ``BODIES``, one after the other; nothing for a NULL."""

    @classmethod
    def of_row(cls, found: Iterable[bytes | None]) -> StoredColumns:
        """Take what ``COLUMNS_SQL`` gave."""
        columns = tuple([column or b"" for column in found])
        return cls(columns[: len(WIDTHS)], columns[len(WIDTHS) :])

    @property
    def row_count(self) -> int:
        """How many rows these are."""
        return len(self.fixed[0]) // WIDTHS[0]

    def canonical(self) -> Iterator[bytes]:
        """Give the canonical bytes of each row."""
        headers = zip(*map(_parts, self.fixed, WIDTHS), strict=True)
        pairs = zip(*map(_TWO_LENGTHS.iter_unpack, self.fixed[-_LENGTH_COLUMNS:]), strict=True)
        ends = [0] * len(BODIES)
        for header, lengths in zip(headers, pairs, strict=True):
            begins = ends
            ends = [begin + length for begin, length in zip(begins, chain(*lengths), strict=True)]
            bodies = zip(self.bodies, begins, ends, strict=True)
            yield b"".join((*header, *(body[begin:end] for body, begin, end in bodies)))


def _parts(column: bytes, width: int) -> list[bytes]:
    return [column[at : at + width] for at in range(0, len(column), width)]
