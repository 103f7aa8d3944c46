"""From "as of" to a position of the log; refuses moments that the log does not have."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, OutOfRange
from runyard_eventlog.port import EventLog
from runyard_eventlog.positions import before_first_event, event_at, position_of_time
from runyard_replay.folding.leases import milliseconds_of


@dataclass(frozen=True, slots=True)
class Moment:
    """What an answer shows."""

    position: int
    """Of the domain lane; later events are not looked at."""
    recorded_at: Timestamp
    """When that position was recorded."""
    time: Timestamp
    """Up to when leases and waits are counted: the time asked for, or of the position, or now."""

    @property
    def horizon_ms(self) -> int:
        """The time in milliseconds since 1970."""
        return milliseconds_of(self.time)


async def moment_of(event_log: EventLog, as_of: AsOf, clock: Clock) -> Moment:
    """Find the moment that is meant; nothing set means now.

    Raises:
        InvalidInput: a position below 0 (BAD_POSITION), a time that no calendar has (BAD_TIME).
        OutOfRange: a position that the log does not have (POSITION_AHEAD), a time in the future
            (TIME_AHEAD), a moment before the first event (BEFORE_FIRST_EVENT).
        Unavailable: the log did not answer in time.
    """
    now = clock.now()
    time = Timestamp()
    match as_of.WhichOneof("at"):
        case "position":
            position = as_of.position
            if position < 0:
                raise InvalidInput("a position is 1 or more", code="BAD_POSITION")
        case "time":
            position = await position_of_time(event_log, as_of.time, now)
            time = as_of.time
        case _:
            position = (await event_log.head()).domain_position
            time.FromDatetime(now)
    if position == 0:
        raise await before_first_event(event_log)
    # That it is there says that the head is not before it, so the head is only asked for when it is not.
    event = await event_at(event_log, Lane.LANE_DOMAIN, position)
    if event is None:
        raise await _ahead(event_log, position)
    recorded_at = event.envelope.recorded_at
    return Moment(position, recorded_at, recorded_at if as_of.WhichOneof("at") == "position" else time)


async def _ahead(event_log: EventLog, position: int) -> OutOfRange:
    head = (await event_log.head()).domain_position
    if position <= head:
        raise AssertionError(f"the log has a head of {head} and no position {position}")
    return OutOfRange(
        f"position {position} is ahead of the log, whose newest is {head}",
        code="POSITION_AHEAD",
        metadata={"head": str(head)},
    )
