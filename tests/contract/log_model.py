"""What a log is, in fifty lines: the model that every implementation is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_eventlog.port import AppendCommand


@dataclass(frozen=True, slots=True)
class Placed:
    """An event in the model."""

    position: int
    version: int
    event: Envelope
    """As it was asked for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The code of the error that a command gets."""

    code: str


@dataclass(slots=True)
class LogModel:
    """A log that may have begun before: only what is appended from now on is known."""

    lanes: dict[Lane.ValueType, list[Placed]]
    base: dict[Lane.ValueType, int]
    """Head of each lane when the model began."""
    versions: dict[str, int] = field(default_factory=dict)
    commands: dict[str, tuple[AppendCommand, tuple[int, ...]]] = field(default_factory=dict)
    events: dict[str, Placed] = field(default_factory=dict)

    @classmethod
    def beginning_at(cls, domain: int, telemetry: int) -> LogModel:
        """Begin after these heads."""
        base = {Lane.LANE_DOMAIN: domain, Lane.LANE_TELEMETRY: telemetry}
        return cls({lane: [] for lane in base}, base)

    def head(self, lane: Lane.ValueType) -> int:
        """Give the newest position of a lane."""
        return self.base[lane] + len(self.lanes[lane])

    def append(self, asked: AppendCommand) -> tuple[int, ...] | Refusal:
        """Append a command, give the first answer again, or refuse."""
        known = self.commands.get(asked.command_id)
        if known is not None:
            return known[1] if _same(known[0], asked) else Refusal("COMMAND_ID_REUSED")
        events = [event for append in asked.appends for event in append.events]
        stored = [self.events[event.event_id] for event in events if event.event_id in self.events]
        if stored:
            if any(placed.event not in events for placed in stored):
                return Refusal("EVENT_ID_REUSED")
            if len(stored) < len(events):
                return Refusal("EVENTS_PARTLY_KNOWN")
            return tuple(placed.position for placed in stored)
        if any(self.versions.get(append.stream, 0) != append.expected_version for append in asked.appends):
            return Refusal("WRONG_VERSION")
        positions = tuple(self._place(event) for event in events)
        self.commands[asked.command_id] = (asked, positions)
        return positions

    def _place(self, event: Envelope) -> int:
        version = self.versions.get(event.stream, 0) + 1
        placed = Placed(self.head(event.lane) + 1, version, event)
        self.versions[event.stream] = version
        self.lanes[event.lane].append(placed)
        self.events[event.event_id] = placed
        return placed.position

    def after(self, lane: Lane.ValueType, position: int) -> list[Placed]:
        """Give everything behind a position that the model knows."""
        return self.lanes[lane][max(0, position - self.base[lane]) :]


def _same(one: AppendCommand, other: AppendCommand) -> bool:
    if one.request_digest or other.request_digest:
        return one.request_digest == other.request_digest
    return one.appends == other.appends
