"""Checks the ids of events that people give, before a database has to refuse them."""

from __future__ import annotations

import uuid

from runyard_contracts.ids import EventId
from runyard_core.errors import InvalidInput


def checked_event_id(text: str) -> EventId:
    """Read an event id in its canonical form.

    Raises:
        InvalidInput: it is not a UUID (BAD_EVENT_ID).
    """
    try:
        return EventId(str(uuid.UUID(text)))
    except ValueError:
        raise InvalidInput(
            f"{text!r} is not an event id: want a whole UUID, as timelines and `history tail` show them",
            code="BAD_EVENT_ID",
            field_violations={"event_id": "not a UUID"},
        ) from None
