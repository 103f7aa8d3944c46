"""An event as it comes out of the log: its envelope, and its message when somebody looks at it."""

from __future__ import annotations

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.envelope import unwrap
from runyard_contracts.ids import Position


class RecordedEvent:
    """An event with its place in the log. Decodes its payload once, on first use."""

    __slots__ = ("_message", "envelope", "position")

    def __init__(
        self, envelope: Envelope, message: Message | None = None, position: Position | None = None
    ) -> None:
        """Keep the envelope as read.

        Args:
            envelope: with its position.
            message: saves decoding when the caller already has it.
            position: saves looking when the caller already has it.
        """
        self.envelope = envelope
        self.position = Position(envelope.position) if position is None else position
        self._message = message

    @property
    def type(self) -> str:
        """Stored name of the event's type."""
        return self.envelope.type

    @property
    def message(self) -> Message:
        """The event message, at the newest schema version.

        Raises:
            UnknownEventTypeError: this version of the contracts does not know the type.
            UndecodableEventError: the payload does not parse.
        """
        message = self._message
        if message is None:
            message = self._message = unwrap(self.envelope)
        return message

    def __repr__(self) -> str:
        """Show place and type."""
        envelope = self.envelope
        return f"<{envelope.type} {envelope.stream}@{envelope.stream_version} position={self.position}>"
