"""The event log in memory: the reference for the conformance suite, and the log of unit tests."""

from __future__ import annotations

import bisect
import copy
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.envelope import actor_name
from runyard_contracts.ids import CommandId, EventId, Position, StreamName, stream_category
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog import refusals
from runyard_eventlog.admission import ROLE_CATEGORIES, AdmittedCommand, admit
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.port import (
    EVERYTHING,
    PAGE_BYTES_MAX,
    READ_LIMIT_MAX,
    AppendCommand,
    Appended,
    EventFilter,
    LogHead,
    Page,
)


@dataclass(slots=True)
class _Known:
    """An id that the log knows, and what came with it."""

    digest: bytes
    lane: Lane.ValueType
    positions: tuple[Position, ...]


@dataclass(slots=True)
class _Lane:
    payloads: list[bytes] = field(default_factory=list)
    recorded_at: list[datetime] = field(default_factory=list)
    after_positions: list[int] = field(default_factory=list)

    @property
    def head(self) -> Position:
        return Position(len(self.payloads))


class MemoryEventLog:
    """Fills the ``EventLog`` port without an engine; nothing survives the process.

    Every call runs to its end without giving way to another task, which is its lock.
    """

    def __init__(
        self,
        *,
        role: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        doorbell: Doorbell | None = None,
    ) -> None:
        """Start empty.

        Args:
            role: database role to act as, which decides the categories to append to; None may append to all.
            now: the log's clock.
            doorbell: rung after every append.
        """
        self._log_id = str(uuid.uuid4())
        self._role = role
        self._now = now
        self._doorbell = doorbell
        self._lanes = {Lane.LANE_DOMAIN: _Lane(), Lane.LANE_TELEMETRY: _Lane()}
        self._streams: dict[str, list[Position]] = {}
        self._commands: dict[str, _Known] = {}
        self._events: dict[str, _Known] = {}

    def acting_as(self, role: str) -> MemoryEventLog:
        """Give the same log for another role."""
        other = copy.copy(self)
        other._role = role  # noqa: SLF001 - the same class
        return other

    async def append(self, command: AppendCommand) -> Appended:
        """See ``EventLog.append``."""
        admitted = admit(command)
        self._check_categories(admitted)
        known = self._first_answer(admitted)
        if known is not None:
            return known
        for stream, expected in admitted.streams:
            actual = len(self._streams.get(stream, ()))
            if actual != expected:
                raise refusals.conflict(stream, expected, actual)
        answer = self._store(admitted)
        if self._doorbell is not None:
            self._doorbell.ring()
        return answer

    async def find_command(self, command_id: CommandId, request_digest: bytes = b"") -> Appended | None:
        """See ``EventLog.find_command``."""
        known = self._commands.get(command_id)
        if known is None:
            return None
        if request_digest and request_digest != known.digest:
            raise refusals.command_reused(command_id, known.positions[-1])
        return Appended(known.positions[-1], known.positions, repeated=True)

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after_version: int = 0,
        to_position: Position | None = None,
        limit: int = READ_LIMIT_MAX,
    ) -> list[RecordedEvent]:
        """See ``EventLog.read_stream``."""
        lane = Lane.LANE_TELEMETRY if stream_category(stream) == "telemetry" else Lane.LANE_DOMAIN
        positions = self._streams.get(stream, [])[after_version:]
        if to_position is not None:
            positions = positions[: bisect.bisect_right(positions, to_position)]
        return [self._event(lane, position) for position in positions[: min(limit, READ_LIMIT_MAX)]]

    async def read(
        self,
        lane: Lane.ValueType,
        *,
        after_position: Position = Position(0),
        to_position: Position | None = None,
        filter: EventFilter = EVERYTHING,  # noqa: A002 - the port's word
        limit: int = 1_000,
        descending: bool = False,
    ) -> Page:
        """See ``EventLog.read``."""
        limit = min(limit, READ_LIMIT_MAX)
        head = self._lanes[lane].head
        last = head if to_position is None else min(to_position, head)
        positions: Sequence[int] = range(after_position + 1, last + 1)
        if descending:
            positions = positions[::-1]
        events: list[RecordedEvent] = []
        room = PAGE_BYTES_MAX
        for position in positions:
            event = self._event(lane, Position(position))
            if not matches(event.envelope, filter):
                continue
            room -= len(self._lanes[lane].payloads[position - 1])
            if room < 0:
                return Page(events, events[-1].position, is_full=True)
            events.append(event)
            if len(events) == limit:
                return Page(events, event.position, is_full=True)
        if descending:
            return Page(events, Position(min(after_position + 1, last)))
        return Page(events, Position(max(after_position, last)))

    async def head(self) -> LogHead:
        """See ``EventLog.head``."""
        return LogHead(
            self._log_id, self._lanes[Lane.LANE_DOMAIN].head, self._lanes[Lane.LANE_TELEMETRY].head
        )

    async def position_at(self, time: datetime) -> Position:
        """See ``EventLog.position_at``."""
        return Position(bisect.bisect_right(self._lanes[Lane.LANE_DOMAIN].recorded_at, time))

    async def find(self, event_id: EventId) -> RecordedEvent | None:
        """See ``EventLog.find``."""
        known = self._events.get(event_id)
        return None if known is None else self._event(known.lane, known.positions[0])

    def _first_answer(self, admitted: AdmittedCommand) -> Appended | None:
        known = self._commands.get(admitted.command_id)
        if known is not None:
            if known.digest != admitted.digest:
                raise refusals.command_reused(admitted.command_id, known.positions[-1])
            return Appended(known.positions[-1], known.positions, repeated=True)
        positions = []
        for event in admitted.events:
            stored = self._events.get(event.event_id)
            if stored is None:
                continue
            if stored.digest != event.digest or stored.lane != admitted.lane:
                raise refusals.event_reused(event.event_id, stored.positions[0], admitted.command_id)
            positions.append(stored.positions[0])
        if not positions:
            return None
        if len(positions) < len(admitted.events):
            raise refusals.events_partly_known(admitted.command_id, len(positions), len(admitted.events))
        return Appended(positions[-1], tuple(positions), repeated=True)

    def _check_categories(self, admitted: AdmittedCommand) -> None:
        for stream, _ in admitted.streams:
            if self._role is not None and stream_category(stream) not in ROLE_CATEGORIES.get(self._role, ()):
                raise refusals.denied(stream)

    def _store(self, admitted: AdmittedCommand) -> Appended:
        lane = self._lanes[admitted.lane]
        recorded_at = max(self._now(), *lane.recorded_at[-1:]) if lane.recorded_at else self._now()
        after = self._lanes[Lane.LANE_DOMAIN].head if admitted.lane == Lane.LANE_TELEMETRY else 0
        positions = []
        for event in admitted.events:
            lane.payloads.append(event.payload)
            lane.recorded_at.append(recorded_at)
            lane.after_positions.append(after)
            positions.append(lane.head)
            self._streams.setdefault(event.stream, []).append(lane.head)
            self._events[event.event_id] = _Known(event.digest, admitted.lane, (lane.head,))
        answer = Appended(positions[-1], tuple(positions))
        self._commands[admitted.command_id] = _Known(admitted.digest, admitted.lane, answer.positions)
        return answer

    def _event(self, lane: Lane.ValueType, position: Position) -> RecordedEvent:
        stored = self._lanes[lane]
        envelope = Envelope.FromString(stored.payloads[position - 1])
        envelope.position = position
        envelope.after_position = stored.after_positions[position - 1]
        envelope.recorded_at.FromDatetime(stored.recorded_at[position - 1])
        return RecordedEvent(envelope)


def matches(envelope: Envelope, wanted: EventFilter) -> bool:
    """Say whether an event passes a filter."""
    return (
        (not wanted.types or any(_type_matches(envelope.type, pattern) for pattern in wanted.types))
        and (not wanted.streams or envelope.stream in wanted.streams)
        and (not wanted.categories or stream_category(envelope.stream) in wanted.categories)
        and wanted.correlation_id in ("", envelope.correlation_id)
        and wanted.causation_id in ("", envelope.causation_id)
        and wanted.actor in ("", actor_name(envelope.actor))
    )


def _type_matches(type_name: str, pattern: str) -> bool:
    return type_name.startswith(pattern) if pattern.endswith(".") else type_name == pattern
