"""The port to the event log, which the memory and the Postgres implementation both fill.

Both pass the same conformance suite (tests/contract/test_{appending_to,reading}_the_log.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.ids import CommandId, EventId, Position, StreamName
from runyard_contracts.recorded import RecordedEvent

READ_LIMIT_MAX = 10_000
"""Most events that one read gives."""
PAGE_BYTES_MAX = 8 * 1024 * 1024
"""Most bytes of stored events in a page; an event has a megabyte at most, so some always fit."""


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """Events for one stream, and the version that the stream must have."""

    stream: StreamName
    expected_version: int
    """Version of the last event of the stream; 0 for a new one. The first event becomes the next version."""
    events: Sequence[Envelope]
    """At least one; all of the same lane. The log fills in version, command id, position and recorded_at."""


@dataclass(frozen=True, slots=True)
class AppendCommand:
    """One command's events over one or several streams: all are appended or none."""

    command_id: CommandId
    """Idempotency key: the same id with the same content gets the first answer again."""
    appends: Sequence[StreamAppend]
    """At most 16 streams and 1,000 events, all of one lane."""
    request_digest: bytes = b""
    """SHA-256 of the request behind the command; a repeat is compared by it. Empty: by the events' bytes."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The answer to an append."""

    position: Position
    """Position of the last event of the command."""
    positions: tuple[Position, ...]
    """One an event, in the order given."""
    repeated: bool = False
    """True when the log had this command already."""


@dataclass(frozen=True, slots=True)
class LogHead:
    """The newest positions; 0 when a lane is empty."""

    log_id: str
    """Random; changed by every restore."""
    domain_position: Position
    telemetry_position: Position

    def of(self, lane: Lane.ValueType) -> Position:
        """Give the newest position of a lane."""
        return self.domain_position if lane == Lane.LANE_DOMAIN else self.telemetry_position


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Everything that is set must match."""

    types: Sequence[str] = ()
    """Exact types, or prefixes that end in "."; empty means all."""
    streams: Sequence[str] = ()
    """Whole stream names; empty means all."""
    categories: Sequence[str] = ()
    """Stream categories: "run"; empty means all."""
    correlation_id: str = ""
    causation_id: str = ""
    actor: str = ""
    """"user:alice"; empty means all."""


EVERYTHING: EventFilter = EventFilter()


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a lane, in position order."""

    events: Sequence[RecordedEvent] = field(default_factory=list)
    """To go through once: a large page brings its events back as somebody comes to them, each time anew."""
    scanned_to: Position = Position(0)  # noqa: RUF009 - a NewType call is a value
    """Everything that matches up to here is in this page or an earlier one."""
    is_full: bool = field(default=False, compare=False)
    """It ends here as it has as many events, or bytes, as a page may have: more may follow at once."""
    whole_from: Position = field(default=Position(1), compare=False)
    """From here up nothing was detached when this page was read: for whoever joins it with the archive."""


class EventLog(Protocol):
    """Append-only, totally ordered within a lane, with optimistic concurrency on each stream."""

    async def append(self, command: AppendCommand) -> Appended:
        """Append the events of one command; durable when it returns.

        Raises:
            Conflict: a stream has another version; metadata "stream", "expected", "actual". Nothing is
                appended.
            IdReused: the command id or an event id is known with other content.
            PermissionDenied: this caller may not append to a stream's category.
            Unavailable: the log did not answer in time; retrying the same command is safe.
        """
        ...

    async def find_command(self, command_id: CommandId, request_digest: bytes = b"") -> Appended | None:
        """Give the answer that a command had, or None when the log does not know it.

        A handler asks this before it decides, so that a repeated request gets its first answer although
        deciding again would draw new ids.

        Raises:
            IdReused: the command is known with another request digest (compared when one is given).
            Unavailable: the log did not answer in time.
        """
        ...

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after_version: int = 0,
        to_position: Position | None = None,
        limit: int = READ_LIMIT_MAX,
    ) -> list[RecordedEvent]:
        """Read one stream in version order; empty when there is none.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...

    async def read(
        self,
        lane: Lane.ValueType,
        *,
        after_position: Position = Position(0),
        to_position: Position | None = None,
        filter: EventFilter = EVERYTHING,  # noqa: A002 - the field's word for it
        limit: int = 1_000,
        descending: bool = False,
    ) -> Page:
        """Read one page of a lane in position order: at most ``limit`` events and ``PAGE_BYTES_MAX`` bytes.

        Descending pages go from ``to_position`` (or the head) down to after ``after_position``; then
        ``scanned_to`` is the lowest position looked at.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...

    async def head(self) -> LogHead:
        """Give the newest positions.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...

    async def position_at(self, time: datetime) -> Position:
        """Give the last position of the domain lane recorded at or before a time; 0 when none was.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...

    async def find(self, event_id: EventId) -> RecordedEvent | None:
        """Find an event of either lane by its id.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...
