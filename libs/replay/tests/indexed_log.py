"""A log in memory with what the index of a database tells."""

from __future__ import annotations

from collections.abc import Sequence

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position, StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.stream_index import PAYLOADS_TOGETHER, OpenStreams, StreamIndex


class IndexedLog(MemoryEventLog):
    """A log in memory that answers as the index of a database does, from all of its events."""

    def __init__(self, log: MemoryEventLog) -> None:
        vars(self).update(vars(log))
        self.looked_at: list[list[int]] = []
        self.folded: list[list[str]] = []

    async def stream_index(self) -> StreamIndex:
        return self

    async def open_streams(self, begin: str, moves: Sequence[str], end: str, to: int) -> OpenStreams:
        events = (await self.read(Lane.LANE_DOMAIN, to_position=Position(to))).events
        ended = {event.envelope.stream for event in events if event.type == end}
        going = [event for event in events if event.envelope.stream not in ended]
        return OpenStreams(
            [event.position for event in going if event.type == begin],
            list({StreamName(event.envelope.stream): None for event in going if event.type in moves}),
            len(ended),
        )

    async def counts(self, type_name: str, stream: StreamName, to: int) -> tuple[int, int]:
        of_stream, elsewhere = await self.positions(type_name, stream, 1, to)
        return len(of_stream), len(elsewhere)

    async def positions(
        self, type_name: str, stream: StreamName, first: int, to: int
    ) -> tuple[Sequence[int], Sequence[int]]:
        page = await self.read(Lane.LANE_DOMAIN, to_position=Position(max(0, to)))
        found = [event for event in page.events if event.type == type_name and event.position >= first]
        of_stream = [event.position for event in found if event.envelope.stream == stream]
        return of_stream, [event.position for event in found if event.position not in of_stream]

    async def payloads(self, positions: Sequence[int]) -> list[bytes]:
        self.looked_at.append(list(positions))
        stored = [event.envelope.SerializeToString() for event in await self.events(positions)]
        parts = range(0, len(stored), PAYLOADS_TOGETHER)
        return [b"".join(stored[start : start + PAYLOADS_TOGETHER]) for start in parts]

    async def events_of(
        self, streams: Sequence[StreamName], types: Sequence[str], to: int
    ) -> list[RecordedEvent]:
        self.folded.append(list(streams))
        found = [
            event for stream in streams for event in await self.read_stream(stream, to_position=Position(to))
        ]
        return [event for event in found if event.type in types]

    async def events(self, positions: Sequence[int]) -> list[RecordedEvent]:
        page = await self.read(Lane.LANE_DOMAIN)
        return [event for event in page.events if event.position in positions]
