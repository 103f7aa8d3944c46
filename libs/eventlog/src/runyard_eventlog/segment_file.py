"""The events of a segment as columns: leaf hashes in bulk, and the Parquet file.

The columns are those of ``log.event`` without the lane; ids are UUIDs, ``payload`` the stored bytes.
The same events always give the same file, byte for byte, with the same version of pyarrow.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.errors import Corrupt
from runyard_eventlog.canonical_columns import CanonicalColumns, bytes_of, one_chunk
from runyard_eventlog.port import EventFilter
from runyard_eventlog.stored_event import COLUMNS, StoredEvent

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MICROS_MIN = (datetime.min.replace(tzinfo=UTC) - _UNIX_EPOCH) // _MICROSECOND
_MICROS_MAX = (datetime.max.replace(tzinfo=UTC) - _UNIX_EPOCH) // _MICROSECOND
_REPETITIVE = ["stream", "type", "correlation_id", "actor"]
# Enough for any segment to be one row group.
_ROW_GROUP_EVENTS = 1_000_000


class SegmentColumns:
    """Events in position order, as Arrow columns."""

    def __init__(self, table: Any) -> None:
        """Wrap a table of ``schema()`` whose columns are each of one chunk."""
        self._table = table

    @classmethod
    def of_events(cls, events: Sequence[StoredEvent]) -> SegmentColumns:
        """Turn rows into columns."""
        import pyarrow

        columns = list(zip(*events, strict=True)) if events else [()] * len(COLUMNS)
        arrays = []
        for field, values in zip(schema(), columns, strict=True):
            if field.name == "recorded_at":
                micros = pyarrow.array([(at - _UNIX_EPOCH) // _MICROSECOND for at in values], pyarrow.int64())
                arrays.append(micros.cast(field.type))
            elif field.name.endswith("event_id") or field.name == "causation_id":
                stored = pyarrow.array(
                    [None if one is None else one.bytes for one in values], pyarrow.binary(16)
                )
                arrays.append(pyarrow.ExtensionArray.from_storage(field.type, stored))
            else:
                arrays.append(pyarrow.array(values, field.type))
        return cls(pyarrow.Table.from_arrays(arrays, schema=schema()))

    @classmethod
    def of_parquet(cls, data: bytes) -> SegmentColumns:
        """Read a file.

        Raises:
            Corrupt: it is not a Parquet file of a segment.
        """
        import pyarrow
        from pyarrow import compute, parquet

        try:
            # Without what looks for the files of a data set, which takes a fifth of it all.
            file = parquet.ParquetFile(pyarrow.BufferReader(data), pre_buffer=False)
            table = file.read(use_threads=False)
            # Flipped bits can leave text that is no text.
            table.validate(full=True)
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise Corrupt(f"not a Parquet file of a segment: {error}", code="BAD_SEGMENT_FILE") from error
        if not table.schema.equals(schema()) or any(
            table[field.name].null_count for field in schema() if not field.nullable
        ):
            raise Corrupt("a Parquet file, but not with the columns of a segment", code="BAD_SEGMENT_FILE")
        columns = cls(table.combine_chunks())
        # None of an empty table.
        found = compute.min_max(columns._table["recorded_at"].cast(pyarrow.int64()))
        if not _MICROS_MIN <= (found["min"].as_py() or 0) <= (found["max"].as_py() or 0) <= _MICROS_MAX:
            raise Corrupt("a segment's file with times that no calendar has", code="BAD_SEGMENT_FILE")
        return columns

    def to_parquet(self) -> bytes:
        """Write the file: zstd, one row group."""
        from pyarrow import parquet

        out = io.BytesIO()
        parquet.write_table(
            self._table,
            out,
            compression="zstd",
            version="2.6",
            use_dictionary=_REPETITIVE,
            row_group_size=_ROW_GROUP_EVENTS,
        )
        return out.getvalue()

    def __len__(self) -> int:
        """Count the events."""
        return int(self._table.num_rows)

    @property
    def positions(self) -> Sequence[int]:
        """The positions, in the file's order."""
        return self._integers("position")

    @property
    def times(self) -> tuple[datetime, datetime]:
        """When the first and the last event was recorded."""
        micros = self._integers("recorded_at")
        first, last = (_UNIX_EPOCH + timedelta(microseconds=micros[at]) for at in (0, -1))
        return first, last

    @property
    def recorded_at(self) -> list[datetime]:
        """When each event was recorded."""
        return [_UNIX_EPOCH + timedelta(microseconds=at) for at in self._integers("recorded_at")]

    @functools.cached_property
    def canonical(self) -> CanonicalColumns:
        """The columns of the events' canonical bytes."""
        return CanonicalColumns(self._table)

    def leaf_hashes(self, lane: Lane.ValueType) -> list[bytes]:
        """Hash the canonical bytes of every event."""
        return self.canonical.leaf_hashes(lane)

    def events(self, indexes: Iterable[int] | None = None) -> list[StoredEvent]:
        """Give the events back as rows, all or those of some indexes."""
        import pyarrow

        chosen = (
            self if indexes is None else SegmentColumns(self._table.take(pyarrow.array(indexes, "int64")))
        )
        return list(chosen)

    def matching(self, wanted: EventFilter, first: int, last: int) -> list[int]:
        """Give the indexes of the events of a range of positions that may pass a filter.

        Everything that passes is among them; prefixes of types and categories are not looked at.
        """
        import pyarrow
        from pyarrow import compute

        position = self._table["position"]
        mask = compute.and_(compute.greater_equal(position, first), compute.less_equal(position, last))
        exact = {
            "stream": list(wanted.streams),
            "correlation_id": [wanted.correlation_id] if wanted.correlation_id else [],
            "actor": [wanted.actor] if wanted.actor else [],
            "type": [] if any(one.endswith(".") for one in wanted.types) else list(wanted.types),
        }
        for name, values in exact.items():
            if values:
                among = pyarrow.array(values, pyarrow.string())
                mask = compute.and_(mask, compute.is_in(self._table[name], value_set=among))
        found: list[int] = compute.indices_nonzero(mask).to_pylist()
        return found

    def __iter__(self) -> Iterator[StoredEvent]:
        """Give the events back as rows."""
        yield from map(
            StoredEvent,
            self._integers("position"),
            self._integers("after_position"),
            self._integers("version"),
            self.recorded_at,
            (UUID(bytes=one) for one in bytes_of(self._table["event_id"]).to_pylist()),
            (UUID(bytes=one) if one else None for one in bytes_of(self._table["causation_id"]).to_pylist()),
            *(self._table[name].to_pylist() for name in (*_REPETITIVE, "payload")),
        )

    def _integers(self, name: str) -> Sequence[int]:
        """Look at a column of 64-bit numbers without copying it."""
        column = one_chunk(self._table[name])
        return memoryview(column.buffers()[1] or b"").cast("q")[column.offset : column.offset + len(column)]


def schema() -> Any:
    """Give the columns of a segment's file."""
    import pyarrow

    types = {
        "position": pyarrow.int64(),
        "after_position": pyarrow.int64(),
        "version": pyarrow.int64(),
        "recorded_at": pyarrow.timestamp("us", tz="UTC"),
        "event_id": pyarrow.uuid(),
        "causation_id": pyarrow.uuid(),
        "payload": pyarrow.binary(),
    }
    return pyarrow.schema(
        [
            pyarrow.field(name, types.get(name, pyarrow.string()), nullable=name == "causation_id")
            for name in COLUMNS
        ]
    )
