"""Read options -> the position of the domain lane that an answer shows."""

from __future__ import annotations

from datetime import UTC

from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard_core.errors import InvalidInput, OutOfRange
from runyard_eventlog.port import EventLog
from runyard_eventlog.projector import Projector

WAIT_SECONDS_MAX = 5.0
"""How long a query waits for the tables to reach its position."""


async def as_of_position(event_log: EventLog, as_of: AsOf) -> int:
    """Give the position that an as_of means; a time is mapped once.

    Raises:
        InvalidInput: a position below 0 (BAD_POSITION).
        OutOfRange: it is after the head of the log (POSITION_AHEAD).
    """
    if as_of.HasField("time"):
        return await event_log.position_at(as_of.time.ToDatetime(tzinfo=UTC))
    await check_position(event_log, as_of.position)
    return as_of.position


async def check_position(event_log: EventLog, position: int) -> None:
    """Check that the domain lane has a position.

    Raises:
        InvalidInput: it is below 0 (BAD_POSITION).
        OutOfRange: it is after the head of the log (POSITION_AHEAD).
    """
    if position < 0:
        raise InvalidInput(f"a position is 0 or more, not {position}", code="BAD_POSITION")
    head = (await event_log.head()).domain_position
    if position > head:
        raise OutOfRange(
            f"position {position} is ahead of the log ({head})",
            code="POSITION_AHEAD",
            metadata={"head": str(head)},
        )


async def shown_position(event_log: EventLog, projector: Projector, read: ReadOptions) -> int:
    """Wait until the tables show what the options ask for; gives the position to show.

    Raises:
        InvalidInput, OutOfRange: a position that the log does not have.
        DeadlineExceeded: the tables do not reach it in time.
    """
    await check_position(event_log, read.min_position)
    position = await as_of_position(event_log, read.as_of) if read.HasField("as_of") else None
    await projector.wait_for(max(read.min_position, position or 0), WAIT_SECONDS_MAX)
    return projector.checkpoint if position is None else position
