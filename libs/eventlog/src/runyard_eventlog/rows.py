"""Reads of the Postgres log: the queries, and rows back into events."""

# ruff: noqa: S608 - only names from the code are put into statements

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import overload

import asyncpg

from runyard.event.v1.envelope_group_pb2 import EnvelopeGroup
from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.ids import StreamName, stream_category
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.port import EventFilter
from runyard_eventlog.stored_event import RECORDED_EPOCH

_EPOCHS_APART_US = (RECORDED_EPOCH - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
_RAW = struct.Struct(">qq")
# What the log adds on read besides the position, as raw bytes, which are cheap to read and to compare.
_ADDED = {
    Lane.LANE_DOMAIN: "timestamptz_send(recorded_at)",
    Lane.LANE_TELEMETRY: "timestamptz_send(recorded_at) || int8send(after_position)",
}
_PARSED_TOGETHER = 100
"""Envelopes that share their memory: whoever keeps one of them keeps them all."""
_KEPT_BYTES = 4_096
_PREFIXES_MAX = 16
"""Of types, that a statement names one by one."""
_TIME_BYTES = 8
_TABLES = {Lane.LANE_DOMAIN: "log.domain_event", Lane.LANE_TELEMETRY: "log.telemetry_event"}

HEAD = """
select (select log_id::text from log.identity) as log_id,
  coalesce((select position from log.domain_event order by position desc limit 1), 0) as domain_position,
  coalesce((select position from log.telemetry_event order by position desc limit 1), 0) as telemetry_position
"""

FIND = f"""
select position, {_ADDED[Lane.LANE_TELEMETRY]}, payload from log.event
where (lane, position) = (select k.lane, k.position from log.event_id k where k.event_id = $1)
"""

COMMAND = "select first_position, event_count, digest from log.command where command_id = $1"


@dataclass(slots=True)
class Query:
    """A statement that is put together, with its arguments."""

    conditions: list[str] = field(default_factory=list)
    arguments: list[object] = field(default_factory=list)

    def where(self, condition: str, argument: object) -> None:
        """Add a condition; ``{}`` in it stands for the argument."""
        self.arguments.append(argument)
        self.conditions.append(condition.format(f"${len(self.arguments)}"))

    def number(self, number: int) -> str:
        """Give the place of a bigint among the arguments."""
        self.arguments.append(number)
        return f"${len(self.arguments)}::bigint"

    def __str__(self) -> str:
        """Give the conditions as they stand behind "where"."""
        return " and ".join(self.conditions)

    def where_any(self, alternatives: Sequence[tuple[str, object]]) -> None:
        """Add conditions with their arguments, of which one must hold."""
        alone = len(self.conditions)
        for condition, argument in alternatives:
            self.where(condition, argument)
        self.conditions[alone:] = [f"({' or '.join(self.conditions[alone:])})"]


def first_position(lane: Lane.ValueType) -> str:
    """Give the statement for the lowest position of a lane that was not detached; 1 when nothing was."""
    return (
        "select coalesce(min(from_position), 1) as first_position from log.partition "
        f"where lane = {int(lane)} and detached_at is null"
    )


def lane_head(lane: Lane.ValueType) -> str:
    """Give the statement for the newest position of a lane."""
    return f"select coalesce((select position from {_TABLES[lane]} order by position desc limit 1), 0)"


@dataclass(frozen=True, slots=True)
class Window:
    """The events between two positions that a read wants, in the order in which it wants them."""

    lane: Lane.ValueType
    after: int
    to: int | None
    """None leaves the end open."""
    wanted: EventFilter
    limit: int
    descending: bool = False


def page(window: Window, share_bytes: int) -> tuple[str, list[object]]:
    """Give the statement for a window's events; the payload is null of one with more than its share."""
    query, order = _in_window(window)
    share, limit = query.number(share_bytes), query.number(window.limit)
    return (
        f"select position, {_ADDED[window.lane]} as added, "
        f"case when octet_length(payload) <= {share} then payload end as payload "
        f"from {_TABLES[window.lane]} where {query} {order} limit {limit}"
    ), query.arguments


def page_by_size(window: Window, room_bytes: int) -> tuple[str, list[object]]:
    """Give the statement for a window's events; payloads are null from the first on that has no room."""
    query, order = _in_window(window)
    limit, room = query.number(window.limit), query.number(room_bytes)
    return (
        f"select position, added, case when up_to_it <= {room} then payload end as payload from ("
        f"select position, {_ADDED[window.lane]} as added, payload, "
        f"sum(octet_length(payload)) over ({order} rows unbounded preceding) as up_to_it "
        f"from {_TABLES[window.lane]} where {query} {order} limit {limit}) sized {order}"
    ), query.arguments


def with_first_position(lane: Lane.ValueType, statement: str) -> str:
    """Let a page's statement say, too, what the lane began with when it ran: in its fourth column.

    There is one row at least; where nothing was found its other columns are null.
    """
    return (
        f"select found.position, found.added, found.payload, kept.first_position "
        f"from ({first_position(lane)}) kept left join lateral ({statement}) found on true"
    )


def stream(
    name: StreamName, after_version: int, to_position: int | None, limit: int
) -> tuple[str, list[object]]:
    """Give the statement for one stream in version order."""
    query = Query()
    query.where("stream = {}", name)
    query.where("version > {}", after_version)
    if to_position is not None:
        query.where("position <= {}", to_position)
    lane = Lane.LANE_TELEMETRY if stream_category(name) == "telemetry" else Lane.LANE_DOMAIN
    statement = (
        f"select position, {_ADDED[lane]}, payload from {_TABLES[lane]} "
        f"where {query} order by version limit {query.number(limit)}"
    )
    return statement, query.arguments


def events(found: Sequence[asyncpg.Record]) -> Sequence[RecordedEvent]:
    """Bring what these statements find (position, what is added as raw bytes, payload) back into events.

    Rows without a position are left out.
    """
    if found and found[0][0] is None:
        return []
    return _together(found) if len(found) <= _PARSED_TOGETHER else FoundEvents(found)


class FoundEvents(Sequence[RecordedEvent]):
    """Events of many rows, brought back a hundred at a time by whoever goes through them.

    All at once would fall out of the processor's cache before somebody looks at them, and messages that
    nobody keeps would stay until the last one. Whoever goes through them twice brings them back twice.
    """

    __slots__ = ("_begin", "_found", "_near")

    def __init__(self, found: Sequence[asyncpg.Record]) -> None:
        """Bring nothing back yet."""
        self._found = found
        self._begin = 0
        self._near: list[RecordedEvent] = []

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._found)

    def __iter__(self) -> Iterator[RecordedEvent]:
        """Give them in order."""
        found = self._found
        begins = range(0, len(found), _PARSED_TOGETHER)
        return chain.from_iterable(_together(found[begin : begin + _PARSED_TOGETHER]) for begin in begins)

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordedEvent]: ...

    def __getitem__(self, index: int | slice) -> RecordedEvent | Sequence[RecordedEvent]:
        """Give one of them, or some as a sequence of their own."""
        if isinstance(index, slice):
            return events(self._found[index])
        at = range(len(self._found))[index]
        if not 0 <= at - self._begin < len(self._near):
            self._begin = at - at % _PARSED_TOGETHER
            self._near = _together(self._found[self._begin : self._begin + _PARSED_TOGETHER])
        return self._near[at - self._begin]


def added_raw(recorded_at: datetime, after_position: int) -> bytes:
    """Give what the log adds on read as the statements find it."""
    return _RAW.pack((recorded_at - RECORDED_EPOCH) // timedelta(microseconds=1), after_position)


def is_selective(wanted: EventFilter) -> bool:
    """Say whether an index leads to the few events that match, wherever they are."""
    return bool(wanted.streams or wanted.correlation_id or wanted.causation_id)


def _in_window(window: Window) -> tuple[Query, str]:
    query = Query()
    query.where("position > {}", window.after)
    if window.to is not None:
        query.where("position <= {}", window.to)
    _add_filter(query, window.wanted)
    return query, f"order by position {'desc' if window.descending else 'asc'}"


def _add_filter(query: Query, wanted: EventFilter) -> None:
    exact = [name for name in wanted.types if not name.endswith(".")]
    prefixes = [name for name in wanted.types if name.endswith(".")]
    types: list[tuple[str, object]] = [("type = any({}::text[])", exact)] if exact else []
    if len(prefixes) > _PREFIXES_MAX:
        types.append(("type ^@ any({}::text[])", prefixes))
    else:
        # One by one: where a statement is planned for its arguments, an index leads to what begins so.
        types += [("type ^@ {}", prefix) for prefix in prefixes]
    if types:
        query.where_any(types)
    if wanted.streams:
        query.where("stream = any({}::text[])", list(wanted.streams))
    if wanted.categories:
        query.where_any([("stream ^@ {}", f"{category}-") for category in wanted.categories])
    if wanted.correlation_id:
        query.where("correlation_id = {}", wanted.correlation_id)
    if wanted.causation_id:
        query.where("causation_id = {}", wanted.causation_id)
    if wanted.actor:
        query.where("actor = {}", wanted.actor)


def _together(found: Sequence[asyncpg.Record]) -> list[RecordedEvent]:
    given, added, added_bytes = b"", b"", 0
    pieces: list[bytes] = []
    for record in found:
        raw, payload = record[1], record[2]
        if raw != given:
            # The same for all events of one call of the append function.
            given, added = raw, _added(raw)
            added_bytes = len(added)
        # Two serialised messages, one after the other, parse as their merge.
        pieces += (_ITEM_HEADERS[len(payload) + added_bytes], payload, added)
    events = []
    envelopes = EnvelopeGroup.FromString(b"".join(pieces)).envelopes
    for record, envelope in zip(found, envelopes, strict=True):
        envelope.position = position = record[0]
        events.append(RecordedEvent(envelope, None, position))
    return events


def _added(raw: bytes) -> bytes:
    """Write an envelope with nothing but what the log adds on read besides the position.

    By hand, as every event of a log of single appends has a time of its own: the library takes twice as long.
    """
    since_us = int.from_bytes(raw[:8], "big", signed=True) + _EPOCHS_APART_US
    seconds, microseconds = divmod(since_us, 1_000_000)
    time = _seconds_field(seconds) + b"\x10" + _varint(microseconds * 1_000)
    added = _RECORDED_AT + len(time).to_bytes(1, "big") + time
    if len(raw) > _TIME_BYTES:
        added += _AFTER_POSITION + _varint(int.from_bytes(raw[_TIME_BYTES:], "big"))
    return added


@lru_cache(maxsize=16)
def _seconds_field(seconds: int) -> bytes:
    return b"\x08" + _varint(seconds)


def _varint(number: int) -> bytes:
    """Write an int64 as protobuf does."""
    number &= 0xFFFF_FFFF_FFFF_FFFF
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


# Tags of a field of bytes and of one number, with the contracts' own field numbers.
_RECORDED_AT = _varint(Envelope.RECORDED_AT_FIELD_NUMBER << 3 | 2)
_AFTER_POSITION = _varint(Envelope.AFTER_POSITION_FIELD_NUMBER << 3)


class _ItemHeaders(dict[int, bytes]):
    """What stands before an envelope of a size in a serialised ``EnvelopeGroup``: field 1, and its size."""

    def __missing__(self, size_bytes: int) -> bytes:
        header = b"\x0a" + _varint(size_bytes)
        if size_bytes < _KEPT_BYTES:
            self[size_bytes] = header
        return header


_ITEM_HEADERS = _ItemHeaders()
