"""Event type <-> message class, read from the options that the event messages carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from runyard.artifact.v1 import events_pb2 as artifact_events
from runyard.artifact.v1 import registry_events_pb2
from runyard.cost.v1 import events_pb2 as cost_events
from runyard.event.v1 import options_pb2
from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1 import events_pb2 as history_events
from runyard.metric.v1 import batches_pb2
from runyard.node.v1 import events_pb2 as node_events
from runyard.projection.v1 import events_pb2 as projection_events
from runyard.run.v1 import events_pb2 as run_events

_EVENT_FILES = (
    artifact_events,
    cost_events,
    history_events,
    batches_pb2,
    node_events,
    projection_events,
    registry_events_pb2,
    run_events,
)


class UnknownEventTypeError(LookupError):
    """An event type that this version of the contracts does not know."""


@dataclass(frozen=True, slots=True)
class EventType:
    """What the contracts say of one event type."""

    name: str
    schema_version: int
    lane: Lane.ValueType
    message_class: type[Message]
    decode: Callable[[bytes], Message]
    """The class's ``FromString``, looked up once."""


def event_type(type_name: str) -> EventType:
    """Look an event type up by its stored name.

    Raises:
        UnknownEventTypeError: there is none of that name.
    """
    try:
        return BY_NAME[type_name]
    except KeyError:
        raise UnknownEventTypeError(type_name) from None


def event_type_of(message: Message | type[Message]) -> EventType:
    """Look the event type of a message or message class up.

    Raises:
        UnknownEventTypeError: the message is not an event.
    """
    full_name = message.DESCRIPTOR.full_name
    try:
        return _BY_MESSAGE[full_name]
    except KeyError:
        raise UnknownEventTypeError(full_name) from None


def _found() -> Iterator[EventType]:
    for module in _EVENT_FILES:
        file = descriptor_pool.Default().FindFileByName(module.DESCRIPTOR.name)
        for descriptor in file.message_types_by_name.values():
            if not descriptor.GetOptions().HasExtension(options_pb2.event):
                continue
            options = descriptor.GetOptions().Extensions[options_pb2.event]
            message_class = message_factory.GetMessageClass(descriptor)
            yield EventType(
                name=options.type,
                schema_version=options.schema_version,
                lane=options.lane,
                message_class=message_class,
                decode=message_class.FromString,
            )


BY_NAME: Mapping[str, EventType] = {found.name: found for found in _found()}
"""Every event type by its stored name."""

_BY_MESSAGE: Mapping[str, EventType] = {
    found.message_class.DESCRIPTOR.full_name: found for found in BY_NAME.values()
}
