"""What a timeline is gathered into: events of the domain lane, and ordered sources of telemetry."""

from __future__ import annotations

from dataclasses import dataclass, field

from runyard.run.v1.types_pb2 import TelemetryMark
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.reading.merging import EventSource, known


@dataclass(frozen=True, slots=True)
class Span:
    """Where a timeline may look."""

    after: int
    """Domain position that it begins behind."""
    to: int
    """Domain position that it ends with."""
    telemetry_to: int
    """Telemetry position that it ends with."""


@dataclass(slots=True)
class Scope:
    """What belongs to a timeline."""

    domain: dict[int, RecordedEvent] = field(default_factory=dict)
    telemetry: list[EventSource] = field(default_factory=list)
    marks: dict[int, TelemetryMark] = field(default_factory=dict)
    """Position of run.finished -> up to where its spool had the attempt."""

    def add(self, event: RecordedEvent) -> None:
        """Add an event of the domain lane."""
        self.domain[event.position] = event

    def sources(self, span: Span, *, domain_only: bool) -> list[EventSource]:
        """Give everything as ordered sources."""
        events = [event for event in self.domain.values() if span.after < event.position <= span.to]
        return [known(events), *([] if domain_only else self.telemetry)]
