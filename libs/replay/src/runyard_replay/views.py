"""Events as readers without the generated code see them."""

from __future__ import annotations

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from runyard.history.v1.history_service_pb2 import CauseLink, EventView
from runyard_contracts.envelope import UndecodableEventError, actor_name
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError

UNREADABLE = (UnknownEventTypeError, UndecodableEventError, NoUpcasterError)
"""What reading the message of an event of another version raises."""


def event_view(event: RecordedEvent, *, with_data: bool = True) -> EventView:
    """Write an event with its payload as JSON; without, when this version does not know its type."""
    message = readable(event) if with_data else None
    data = ""
    if message is not None:
        data = MessageToJson(message, preserving_proto_field_name=True, indent=None)
    return EventView(envelope=event.envelope, data_json=data)


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
