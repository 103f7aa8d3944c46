"""From a query's ReadOptions to the position that its answer shows."""

from __future__ import annotations

from runyard.event.v1.read_pb2 import ReadOptions
from runyard_contracts.ids import Position
from runyard_core.clock import Clock, SystemClock
from runyard_core.errors import InvalidInput, OutOfRange
from runyard_eventlog.port import EventLog
from runyard_eventlog.positions import position_of_time
from runyard_eventlog.projector import Projector

WAIT_SECONDS_MAX = 10.0
"""How long a query waits for the read model to reach what it asks for."""


class Moments:
    """Knows which position of the log the read model shows."""

    def __init__(self, event_log: EventLog, projector: Projector, clock: Clock | None = None) -> None:
        """Map times with this log, wait for this projector; the machine's clock says what the future is."""
        self._log = event_log
        self._projector = projector
        self._clock = clock or SystemClock()

    async def shown(self, read: ReadOptions) -> Position:
        """Give the position that a query shall show, once the read model has it.

        Raises:
            InvalidInput: a position below 0 (BAD_POSITION), a time that no calendar has (BAD_TIME).
            OutOfRange: a position that the log does not have (POSITION_AHEAD), a time in the future
                (TIME_AHEAD) or before the first event (BEFORE_FIRST_EVENT).
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
                now = self._clock.now()
                return await self._reach(await position_of_time(self._log, read.as_of.time, now))
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
