"""Which streams began and did not end, out of the log's index of types: no event is read for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from runyard_contracts.ids import StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.port import EventLog

PAYLOADS_EACH = 5_000
"""Most payloads that are asked for at once: a few megabytes, as a rule."""
PAYLOADS_TOGETHER = 100
"""Of them, so many are given as one."""

STREAMS_EACH = 500
"""Most streams whose events are asked for at once."""


@dataclass(frozen=True, slots=True)
class OpenStreams:
    """Streams of the domain lane as of a position."""

    begun: Sequence[int]
    """Positions of the events with which streams began that have not ended, in no order."""
    moved: Sequence[StreamName]
    """Those among them with an event that moved them on."""
    ended_count: int


class StreamIndex(Protocol):
    """Answers out of an index what would take a reader of events all of the log."""

    async def open_streams(self, begin: str, moves: Sequence[str], end: str, to: int) -> OpenStreams:
        """Find the streams that began and did not end.

        Args:
            begin: type of the event that a stream begins with.
            moves: types of events that move a stream on.
            end: type of the event that ends one; a stream has it once, and nothing behind it counts.
            to: a position of the domain lane; later events are not looked at.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...

    async def counts(self, type_name: str, stream: StreamName, to: int) -> tuple[int, int]:
        """Count the events of a type: those of one stream, and those of all others.

        Args:
            type_name: of the events.
            stream: whose are told apart.
            to: a position of the domain lane; later events are not looked at.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...

    async def positions(
        self, type_name: str, stream: StreamName, first: int, to: int
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Say where the events of a type are: those of one stream, and those of all others, in no order.

        Args:
            type_name: of the events.
            stream: whose are told apart.
            first: a position of the domain lane; earlier events are not looked at.
            to: the same for later ones.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...

    async def payloads(self, positions: Sequence[int]) -> list[bytes]:
        """Give stored envelopes in order: ``PAYLOADS_TOGETHER`` of them, one after the other, as one.

        Args:
            positions: where they are, ascending; at most ``PAYLOADS_EACH``.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...

    async def events_of(
        self, streams: Sequence[StreamName], types: Sequence[str], to: int
    ) -> list[RecordedEvent]:
        """Give the events of streams, one stream after the other, each in the order of its versions.

        Args:
            streams: at most ``STREAMS_EACH``, each with few events.
            types: of the events.
            to: a position of the domain lane; later events are left out.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...

    async def events(self, positions: Sequence[int]) -> list[RecordedEvent]:
        """Give the events at positions, in the order of the log.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ...


@runtime_checkable
class HasStreamIndex(Protocol):
    """A log that may have one."""

    async def stream_index(self) -> StreamIndex | None:
        """Give the index; None when it would not know all of the domain lane."""
        ...


async def stream_index_of(event_log: EventLog) -> StreamIndex | None:
    """Give the index of a log; None when it has none that knows all of the domain lane.

    Raises:
        Unavailable: the log did not answer in time.
    """
    return await event_log.stream_index() if isinstance(event_log, HasStreamIndex) else None
