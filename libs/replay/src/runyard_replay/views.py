"""Events as readers without the generated code see them."""

from __future__ import annotations

import json

from google.protobuf.message import Message

from runyard.history.v1.history_service_pb2 import CauseLink, EventView
from runyard_contracts.answer_size import items_that_fit
from runyard_contracts.envelope import UndecodableEventError, actor_name
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError
from runyard_eventlog.port import Page
from runyard_replay.folding.fields import json_content

UNREADABLE = (UnknownEventTypeError, UndecodableEventError, NoUpcasterError)
"""What reading the message of an event of another version raises."""


def event_view(event: RecordedEvent, *, with_data: bool = True) -> EventView:
    """Write an event with its payload as JSON.

    Without, when this version does not know its type, or JSON has no words for it.
    """
    message = readable(event) if with_data else None
    content = None if message is None else json_content(message)
    return EventView(envelope=event.envelope, data_json="" if content is None else json.dumps(content))


def answered_page(page: Page) -> tuple[list[EventView], Position | None]:
    """Write the events of a page, as many as one answer has room for, at least one.

    Gives besides the position of the last one if more may follow. An event as JSON may be four times as long
    as it is stored.
    """
    views = items_that_fit(map(event_view, page.events))
    if views.has_more:
        return views.items, Position(views.items[-1].envelope.position)
    return views.items, page.scanned_to if page.is_full else None


def readable(event: RecordedEvent) -> Message | None:
    """Give the message of an event; None when this version cannot read it."""
    try:
        return event.message
    except UNREADABLE:
        return None


def cause_link(event: RecordedEvent) -> CauseLink:
    """Name an event in a chain of causes."""
    envelope = event.envelope
    return CauseLink(
        event_id=envelope.event_id,
        type=envelope.type,
        stream=envelope.stream,
        lane=envelope.lane,
        position=envelope.position,
        actor=actor_name(envelope.actor),
    )
