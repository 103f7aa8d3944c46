"""Searches for a position of a lane; each reads one event for each doubling of the lane."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import InvalidInput, OutOfRange
from runyard_eventlog.port import EventLog


async def event_at(event_log: EventLog, lane: Lane.ValueType, position: int) -> RecordedEvent | None:
    """Give the event at a position; None when the lane does not reach it.

    Raises:
        Unavailable: the log did not answer in time.
    """
    page = await event_log.read(
        lane, after_position=Position(position - 1), to_position=Position(position), limit=1
    )
    return page.events[0] if page.events else None


async def position_of_time(event_log: EventLog, time: Timestamp, now: datetime) -> Position:
    """Give the last position of the domain lane that was recorded at or before a past time.

    Raises:
        InvalidInput: no calendar has this time (BAD_TIME).
        OutOfRange: the time is in the future (TIME_AHEAD), or before the first event (BEFORE_FIRST_EVENT).
        Unavailable: the log did not answer in time.
    """
    position = await event_log.position_at(past_time_asked_for(time, now))
    if position == 0:
        raise await before_first_event(event_log)
    return position


def time_asked_for(time: Timestamp) -> datetime:
    """Give the time that a caller names.

    Raises:
        InvalidInput: no calendar has it (BAD_TIME).
    """
    try:
        return time.ToDatetime(tzinfo=UTC)
    except ValueError as error:
        raise InvalidInput(f"not a time: {error}", code="BAD_TIME") from error


def past_time_asked_for(time: Timestamp, now: datetime) -> datetime:
    """Give the time that a caller names.

    Raises:
        InvalidInput: no calendar has it (BAD_TIME).
        OutOfRange: it is in the future (TIME_AHEAD).
    """
    wanted = time_asked_for(time)
    if wanted > now:
        raise OutOfRange(
            f"{wanted.isoformat()} is in the future: it is {now.isoformat(timespec='seconds')}",
            code="TIME_AHEAD",
        )
    return wanted


async def before_first_event(event_log: EventLog) -> OutOfRange:
    """Give the refusal of a moment at which the domain lane had no event yet.

    Raises:
        Unavailable: the log did not answer in time.
    """
    first = await event_at(event_log, Lane.LANE_DOMAIN, 1)
    if first is None:
        return OutOfRange("the log has no events yet", code="BEFORE_FIRST_EVENT")
    began = first.envelope.recorded_at.ToDatetime(tzinfo=UTC).isoformat(timespec="microseconds")
    return OutOfRange(
        f"that is before the first event of the log, which was recorded at {began}",
        code="BEFORE_FIRST_EVENT",
        metadata={"first_recorded_at": began},
    )


async def last_where(
    event_log: EventLog, lane: Lane.ValueType, head: int, holds: Callable[[RecordedEvent], bool]
) -> Position:
    """Give the last position for which something holds that, once false, stays false; 0 when for none.

    Raises:
        Unavailable: the log did not answer in time.
    """
    low, high = 0, head
    while low < high:
        middle = (low + high + 1) // 2
        event = await event_at(event_log, lane, middle)
        if event is not None and holds(event):
            low = middle
        else:
            high = middle - 1
    return Position(low)


async def telemetry_at(event_log: EventLog, domain_position: int, head: int) -> Position:
    """Give the last telemetry position that came before the domain lane went beyond a position.

    Args:
        event_log: the log.
        domain_position: of the domain lane.
        head: of the telemetry lane; later batches are not looked at.

    Raises:
        Unavailable: the log did not answer in time.
    """
    return await last_where(
        event_log,
        Lane.LANE_TELEMETRY,
        head,
        lambda event: event.envelope.after_position <= domain_position,
    )
