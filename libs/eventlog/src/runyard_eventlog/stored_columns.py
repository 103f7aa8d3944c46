"""Rows of the log column by column: as the database gives them fastest, and as a segment's file has them.

Where a value ends is told by a column, too. So equal columns are equal rows, comparing them is comparing
memory, and only what differs is taken apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from runyard.event.v1.envelope_pb2 import Lane

WIDTHS = (8, 8, 8, 8, 16, 8, 8)
"""Bytes of a row in each of ``StoredColumns.fixed``."""
BODIES = ("causation_id", "stream", "type", "correlation_id", "actor", "payload")
"""The columns whose values have any length, in the order of the canonical bytes."""
SHIFTS = (58, 42, 21, 0)
"""The bits from which on the first column of lengths has the lengths of the first four bodies. The name of a
stream has at most 240 bytes, and of longer types and correlation ids than 250,000 the table has no index. A
length that takes bits of another one is seen all the same: the values are longer."""

# Several lengths go into one number, as every value costs the database a call and a kilobyte.
_FIRST_LENGTHS_SQL = " | ".join(
    f"({length}::bigint << {shift})"
    for length, shift in zip(
        (
            "case when causation_id is null then 0 else 16 end",
            *(f"octet_length({name})" for name in BODIES[1:4]),
        ),
        SHIFTS,
        strict=True,
    )
)
_FIXED_SQL = (
    *("int8send(position)", "int8send(version)", "int8send(after_position)"),
    *("timestamptz_send(recorded_at)", "uuid_send(event_id)"),
    f"int8send({_FIRST_LENGTHS_SQL})",
    "int8send(octet_length(actor)::bigint << 32 | octet_length(payload))",
)
_BODIES_SQL = (
    "string_agg(uuid_send(causation_id), ''::bytea)",
    *(f"convert_to(string_agg({name}, ''), 'UTF8')" for name in BODIES[1:-1]),
    "string_agg(payload, ''::bytea)",
)
_NEVER_NULL = (
    *("position", "version", "after_position", "recorded_at", "event_id"),
    *("stream", "type", "correlation_id", "actor", "payload"),
)
_LENGTH = struct.Struct(">Q")
_TWO_LENGTHS = struct.Struct(">II")
_HEADER_LENGTHS = struct.Struct(">6I")

COLUMNS_SQL = ", ".join((*(f"string_agg({one}, ''::bytea)" for one in _FIXED_SQL), *_BODIES_SQL))
"""What puts rows of one lane together as ``StoredColumns.of_row`` takes them: a value for each column."""
WHOLE_SQL = " and ".join(f"{name} is not null" for name in _NEVER_NULL)
"""Holds for every row that the log can have. It is looked at, and a row without a value left out, only where
somebody took the constraints of the table away."""


class StoredColumns(NamedTuple):
    """Some rows of a lane of the log, in order."""

    fixed: tuple[bytes, ...]
    """Position, version, after_position, recorded_at and event id, the lengths of the first four bodies
    (``SHIFTS``) and those of the last two, 32 bits each: column by column."""
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

    def canonical(self, lane: Lane.ValueType) -> Iterator[bytes]:
        """Give the canonical bytes of each row."""
        lane_bytes = lane.to_bytes(2, "big")
        begins = [0] * len(BODIES)
        for *header, first, last in zip(*map(_parts, self.fixed, WIDTHS), strict=True):
            lengths = (*_apart(first), *_TWO_LENGTHS.unpack(last))
            ends = [begin + length for begin, length in zip(begins, lengths, strict=True)]
            values = [body[begin:end] for body, begin, end in zip(self.bodies, begins, ends, strict=True)]
            yield b"".join((lane_bytes, *header, _HEADER_LENGTHS.pack(*map(len, values)), *values))
            begins = ends


def _parts(column: bytes, width: int) -> list[bytes]:
    return [column[at : at + width] for at in range(0, len(column), width)]


def _apart(lengths: bytes) -> Iterator[int]:
    (number,) = _LENGTH.unpack(lengths)
    return (number % (1 << high) >> low for high, low in pairwise((64, *SHIFTS)))
