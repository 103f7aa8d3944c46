"""The canonical bytes of a segment's events, column by column: hashed as leaves, compared with stored rows.

Columns are Arrow arrays, and nothing here is done event by event.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.merkle import LEAF_PREFIX
from runyard_eventlog.stored_columns import BODIES, WIDTHS, StoredColumns
from runyard_eventlog.stored_event import RECORDED_EPOCH

_EPOCHS_APART_US = (RECORDED_EPOCH - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
_WIDTHS = WIDTHS[1:]
"""Without the lane, which is the same for all."""


class CanonicalColumns:
    """What ``StoredColumns`` holds of rows, of the events of a segment's file."""

    def __init__(self, table: Any) -> None:
        """Turn the columns of a table, each of one chunk, into those."""
        import pyarrow
        from pyarrow import compute

        self._row_count = table.num_rows
        self._bodies = [bytes_of(table[name]) for name in BODIES]
        numbers = [table[name] for name in ("position", "version", "after_position")]
        recorded = compute.subtract(table["recorded_at"].cast(pyarrow.int64()), _EPOCHS_APART_US)
        lengths = [_big_endian(compute.binary_length(body)) for body in self._bodies]
        columns = [
            *map(_big_endian, (*numbers, recorded)),
            _values(one_chunk(table["event_id"]).storage, 16),
            *map(_side_by_side, lengths[::2], lengths[1::2]),
        ]
        self._fixed = [pyarrow.py_buffer(column) for column in columns]

    def leaf_contents(self, lane: Lane.ValueType) -> tuple[memoryview, list[int]]:
        """Put what the leaf hashes are over one after the other: the bytes, and where each event begins.

        The last number is where the last event ends. All events are put together column by column, which
        takes a fifth of the time that packing them one after the other does.
        """
        import pyarrow
        from pyarrow import compute

        # Of 64-bit offsets, as the payloads of a segment have no limit here.
        wide = pyarrow.large_binary()
        fixed = [
            pyarrow.Array.from_buffers(pyarrow.binary(width), self._row_count, [None, column])
            for column, width in zip(self._fixed, _WIDTHS, strict=True)
        ]
        joined = compute.binary_join_element_wise(
            pyarrow.scalar(LEAF_PREFIX + _lane_bytes(lane), wide),
            *(column.cast(wide) for column in (*fixed, *self._bodies)),
            pyarrow.scalar(b"", wide),
        )
        _, offsets, content = joined.buffers()
        begins = memoryview(offsets or bytes(8)).cast("q")[joined.offset :][: len(joined) + 1]
        return memoryview(content or b"").cast("B"), begins.tolist()

    def are_rows(self, rows: Iterable[StoredColumns], begin: int, lane: Lane.ValueType) -> bool:
        """Say whether these rows are the events from an index on, up to the last one, byte for byte."""
        import pyarrow

        columns = [*self._fixed, *(_contents(body, begin) for body in self._bodies)]
        ends = [*(begin * width for width in _WIDTHS), *(0 for _ in self._bodies)]
        count = begin
        for some in rows:
            found = (*some.fixed[1:], *some.bodies)
            begins, ends = ends, [end + len(content) for end, content in zip(ends, found, strict=True)]
            if some.fixed[0] != _lane_bytes(lane) * some.row_count or not all(
                end <= column.size and column.slice(start, end - start).equals(pyarrow.py_buffer(content))
                for column, start, end, content in zip(columns, begins, ends, found, strict=True)
            ):
                return False
            count += some.row_count
        return bool(count == self._row_count)


def bytes_of(column: Any) -> Any:
    """Give a column as one of bytes; what is null is empty."""
    import pyarrow
    from pyarrow import compute

    column = one_chunk(column)
    if isinstance(column, pyarrow.ExtensionArray):
        column = column.storage
    return compute.fill_null(column.cast(pyarrow.binary()), b"")


def one_chunk(column: Any) -> Any:
    """Give a column as one array."""
    import pyarrow

    if not isinstance(column, pyarrow.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _lane_bytes(lane: Lane.ValueType) -> bytes:
    return lane.to_bytes(2, "big")


def _values(column: Any, width: int) -> memoryview:
    """Look at the values of a column of numbers, or of bytes of one length."""
    content = memoryview(column.buffers()[1] or b"").cast("B")
    return content[column.offset * width :][: len(column) * width]


def _contents(column: Any, begin: int) -> Any:
    """Look at the values of a column of bytes of any length, from an index on."""
    import pyarrow

    _, offsets, content = column.buffers()
    ends = memoryview(offsets or bytes(4)).cast("i")[column.offset :][: len(column) + 1]
    first, last = (ends[begin], ends[-1]) if begin < len(ends) else (0, 0)
    return pyarrow.py_buffer(content or b"").slice(first, last - first)


def _big_endian(numbers: Any) -> array[int]:
    """Give a column of numbers with their bytes turned around."""
    numbers = one_chunk(numbers)
    swapped = array("q" if numbers.type.bit_width == 64 else "i")
    swapped.frombytes(_values(numbers, swapped.itemsize))
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped


def _side_by_side(left: array[int], right: array[int]) -> array[int]:
    both = array(left.typecode, bytes(2 * left.itemsize * len(left)))
    both[::2], both[1::2] = left, right
    return both
