"""From a query's ReadOptions to what its answer shows: a position, and the time up to which is priced."""

from __future__ import annotations

from datetime import UTC, datetime

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import ReadOptions
from runyard_contracts.ids import Position
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, OutOfRange
from runyard_cost.costs import Moment
from runyard_cost.projections.leases import milliseconds_of
from runyard_eventlog.port import EventLog
from runyard_eventlog.projector import Projector

WAIT_SECONDS_MAX = 10.0
"""How long a query waits for the read model to reach what it asks for."""


class Moments:
    """Knows which position of the log the read model shows."""

    def __init__(self, event_log: EventLog, projector: Projector, clock: Clock) -> None:
        """Map times with this log, wait for this projector."""
        self._log = event_log
        self._projector = projector
        self._clock = clock

    async def shown(self, read: ReadOptions) -> Moment:
        """Give the moment that a query shall show, once the read model has it.

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
        now_ms = _milliseconds(self._clock.now())
        match read.as_of.WhichOneof("at"):
            case "position":
                position = await self._reach(Position(read.as_of.position))
                return Moment(position, await self._recorded_at_ms(position))
            case "time":
                time = read.as_of.time
                position = await self._reach(await self._log.position_at(time.ToDatetime(tzinfo=UTC)))
                return Moment(position, min(milliseconds_of(time), now_ms))
            case _:
                return Moment(self._projector.checkpoint, now_ms)

    async def _reach(self, position: Position) -> Position:
        if position > self._projector.checkpoint:
            head = (await self._log.head()).domain_position
            if position > head:
                raise OutOfRange(f"position {position} is ahead of the log ({head})", code="POSITION_AHEAD")
            await self._projector.wait_for(position, WAIT_SECONDS_MAX)
        return position

    async def _recorded_at_ms(self, position: Position) -> int:
        """Give the time at which a position was the newest one."""
        page = await self._log.read(
            Lane.LANE_DOMAIN, after_position=Position(position - 1), to_position=position, limit=1
        )
        return milliseconds_of(page.events[0].envelope.recorded_at) if page.events else 0


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1_000)
