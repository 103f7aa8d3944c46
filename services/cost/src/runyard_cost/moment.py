"""From a query's ReadOptions to what its answer shows: a position, and the time up to which is priced."""

from __future__ import annotations

from datetime import datetime

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import ReadOptions
from runyard_contracts.ids import Position
from runyard_core.clock import Clock
from runyard_cost.costs import Moment
from runyard_cost.projections.leases import milliseconds_of
from runyard_eventlog.moment import Moments
from runyard_eventlog.port import EventLog
from runyard_eventlog.projector import Projector


class PricedMoments:
    """Knows which position of the log the read model shows, and when that was."""

    def __init__(self, event_log: EventLog, projector: Projector, clock: Clock) -> None:
        """Map times with this log, wait for this projector."""
        self._log = event_log
        self._moments = Moments(event_log, projector)
        self._clock = clock

    async def shown(self, read: ReadOptions) -> Moment:
        """Give the moment that a query shall show, once the read model has it.

        Raises:
            InvalidInput, OutOfRange, DeadlineExceeded, Unavailable: as ``Moments.shown``.
        """
        position = await self._moments.shown(read)
        now_ms = _milliseconds(self._clock.now())
        match read.as_of.WhichOneof("at"):
            case "position":
                return Moment(position, await self._recorded_at_ms(position))
            case "time":
                return Moment(position, min(milliseconds_of(read.as_of.time), now_ms))
            case _:
                return Moment(position, now_ms)

    async def _recorded_at_ms(self, position: Position) -> int:
        """Give the time at which a position was the newest one."""
        page = await self._log.read(
            Lane.LANE_DOMAIN, after_position=Position(position - 1), to_position=position, limit=1
        )
        return milliseconds_of(page.events[0].envelope.recorded_at) if page.events else 0


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1_000)
