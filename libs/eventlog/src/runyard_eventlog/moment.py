"""From a query's ReadOptions to the position that its answer shows."""

from __future__ import annotations

from datetime import UTC

from runyard.event.v1.read_pb2 import ReadOptions
from runyard_contracts.ids import Position
from runyard_core.errors import InvalidInput, OutOfRange
from runyard_eventlog.port import EventLog
from runyard_eventlog.projector import Projector

WAIT_SECONDS_MAX = 10.0
"""How long a query waits for the read model to reach what it asks for."""


class Moments:
    """Knows which position of the log the read model shows."""

    def __init__(self, event_log: EventLog, projector: Projector) -> None:
        """Map times with this log, wait for this projector."""
        self._log = event_log
        self._projector = projector

    async def shown(self, read: ReadOptions) -> Position:
        """Give the position that a query shall show, once the read model has it.

        Raises:
            InvalidInput: a position below 0 (BAD_POSITION).
            OutOfRange: a position that the log does not have (POSITION_AHEAD).
            DeadlineExceeded: the read model does not get there in time (READ_MODEL_BEHIND).
            Unavailable: the log did not answer in time.
        """
        if read.min_position < 0 or read.as_of.position < 0:
            raise InvalidInput("a position is 0 or more", code="BAD_POSITION")
        if read.min_position:
            await self._reach(Position(read.min_position))
        match read.as_of.WhichOneof("at"):
            case "position":
                return await self._reach(Position(read.as_of.position))
            case "time":
                time = read.as_of.time.ToDatetime(tzinfo=UTC)
                return await self._reach(await self._log.position_at(time))
            case _:
                return self._projector.checkpoint

    async def latest(self) -> Position:
        """Give the log's head, once the read model has it.

        Raises:
            DeadlineExceeded: the read model does not get there in time (READ_MODEL_BEHIND).
            Unavailable: the log did not answer in time.
        """
        return await self._reach((await self._log.head()).domain_position)

    async def _reach(self, position: Position) -> Position:
        if position > self._projector.checkpoint:
            head = (await self._log.head()).domain_position
            if position > head:
                raise OutOfRange(f"position {position} is ahead of the log ({head})", code="POSITION_AHEAD")
            await self._projector.wait_for(position, WAIT_SECONDS_MAX)
        return position
