"""Searches for a position of a lane; each reads one event for each doubling of the lane."""

from __future__ import annotations

from collections.abc import Callable

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
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
