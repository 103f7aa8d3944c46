"""Stored events read as messages with few of their fields: what is not looked at costs next to nothing."""

from __future__ import annotations

from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.envelope import undecodable, upcast_data
from runyard_contracts.registry import event_type_of

GlanceT = TypeVar("GlanceT", bound=Message)


class Glance(Generic[GlanceT]):
    """How events of one type are read: as they are, or as a message of fewer fields with the same numbers."""

    __slots__ = ("_decode", "_schema_version", "event_type")

    def __init__(self, event_class: type[Message], glance_class: type[GlanceT]) -> None:
        """Read events of a class as another one.

        Raises:
            UnknownEventTypeError: the first class is not an event.
        """
        found = event_type_of(event_class)
        self.event_type = found.name
        self._schema_version = found.schema_version
        self._decode = glance_class.FromString

    def at(self, envelope: Envelope) -> GlanceT:
        """Give what is wanted of an event of this type, at the newest schema version.

        Raises:
            UndecodableEventError: the payload does not parse.
            NoUpcasterError: no step leads from its schema version to the newest.
        """
        is_newest = envelope.schema_version == self._schema_version
        data = envelope.data if is_newest else upcast_data(envelope)
        try:
            return self._decode(data)
        except DecodeError as error:
            raise undecodable(envelope, error) from error
