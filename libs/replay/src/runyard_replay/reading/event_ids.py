"""From what a person calls an event to the event: its id, the beginning of it, or its position."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import EventId
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Ambiguous, InvalidInput, NotFound
from runyard_eventlog.port import EventLog
from runyard_eventlog.positions import event_at
from runyard_replay.reading.pages import read_lane

PREFIX_DIGITS_MIN = 8
"""Shorter ones would be of events of more than a minute."""
_TIME_DIGITS = 12
"""The first digits of an id are the time at which it was made, in milliseconds."""
_MADE_BEFORE_RECORDED_MAX = timedelta(minutes=1)
# An id that begins with its time begins with 0 for centuries.
_POSITION = re.compile(r"[0-9]{1,7}|[1-9][0-9]{7,17}")
_PREFIX = re.compile(r"[0-9a-f][0-9a-f-]*")


def is_position(text: str) -> bool:
    """Say whether an event is named by its position in the domain lane."""
    return _POSITION.fullmatch(text) is not None


async def find_event(event_log: EventLog, text: str) -> RecordedEvent:
    """Find the one event that is meant; prefixes and positions are of the domain lane.

    Raises:
        InvalidInput: it can name no event (BAD_EVENT_ID).
        NotFound: the log has no such event (EVENT_NOT_FOUND).
        Ambiguous: it begins several ids; the message has them.
        Unavailable: the log did not answer in time.
    """
    event: RecordedEvent | None
    if is_position(text):
        event = await event_at(event_log, Lane.LANE_DOMAIN, int(text)) if int(text) else None
    elif (event_id := _whole(text)) is not None:
        event = await event_log.find(event_id)
    else:
        event = await _beginning_with(event_log, _checked_prefix(text))
    if event is None:
        raise NotFound(f"the log has no event {text}", code="EVENT_NOT_FOUND")
    return event


def _whole(text: str) -> EventId | None:
    try:
        return EventId(str(uuid.UUID(text)))
    except ValueError:
        return None


def _checked_prefix(text: str) -> str:
    digits = text.replace("-", "")
    if not _PREFIX.fullmatch(text) or not PREFIX_DIGITS_MIN <= len(digits) <= 32:
        raise InvalidInput(
            f"{text!r} is not an event: want its id as timelines and `history tail` show it, the first "
            f"{PREFIX_DIGITS_MIN} digits of that or more, or its position",
            code="BAD_EVENT_ID",
            field_violations={"event_id": "not a UUID, nor the beginning of one"},
        )
    return digits


async def _beginning_with(event_log: EventLog, digits: str) -> RecordedEvent | None:
    """Look where events of the time that the digits name were recorded."""
    first_ms = int(digits[:_TIME_DIGITS].ljust(_TIME_DIGITS, "0"), 16)
    last_ms = int(digits[:_TIME_DIGITS].ljust(_TIME_DIGITS, "f"), 16)
    try:
        first = datetime.fromtimestamp(first_ms / 1000, UTC) - _MADE_BEFORE_RECORDED_MAX
        last = datetime.fromtimestamp(last_ms / 1000, UTC) + _MADE_BEFORE_RECORDED_MAX
    except (ValueError, OverflowError):
        return None
    after, to = await event_log.position_at(first), await event_log.position_at(last)
    found = [
        event
        async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=after, to=to)
        if event.envelope.event_id.replace("-", "").startswith(digits)
    ]
    if len(found) > 1:
        shown = ", ".join(event.envelope.event_id for event in found[:5])
        more = ", ..." if len(found) > 5 else ""
        raise Ambiguous(f"{digits!r} may mean several events: {shown}{more}; give more of the id")
    return found[0] if found else None
