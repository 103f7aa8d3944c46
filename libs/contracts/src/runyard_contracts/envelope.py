"""Wrap an event message into its envelope, and unwrap it again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import DecodeError, Message

from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Envelope
from runyard_contracts import upcasting
from runyard_contracts.ids import EventId, StreamName, uuid7
from runyard_contracts.registry import BY_NAME, event_type, event_type_of

_KIND_NAMES = {
    ActorKind.ACTOR_KIND_USER: "user",
    ActorKind.ACTOR_KIND_SERVICE: "service",
    ActorKind.ACTOR_KIND_AGENT: "agent",
}


class UndecodableEventError(ValueError):
    """The payload of an event is not what its type says."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every event of a command has in common: who, why, and in which trace."""

    actor: Actor
    """Who asked."""
    correlation_id: str
    """Groups everything that one request set off."""
    source: str
    """The producer: "/scheduler", "/agents/<node>"."""
    causation_id: str = ""
    """event_id of the direct cause; empty when a person or a clock is the cause."""
    traceparent: str = ""
    """W3C trace context."""


def wrap(
    message: Message,
    stream: StreamName,
    context: Context,
    occurred_at: datetime,
    *,
    event_id: EventId | None = None,
) -> Envelope:
    """Put an event message into an envelope that is ready to append.

    The log fills in ``stream_version``, ``command_id``, ``position`` and ``recorded_at``.

    Raises:
        UnknownEventTypeError: the message is not an event.
    """
    found = event_type_of(message)
    envelope = Envelope(
        event_id=event_id or uuid7(),
        type=found.name,
        schema_version=found.schema_version,
        source=context.source,
        stream=stream,
        lane=found.lane,
        correlation_id=context.correlation_id,
        causation_id=context.causation_id,
        actor=context.actor,
        traceparent=context.traceparent,
        data=message.SerializeToString(deterministic=True),
    )
    envelope.occurred_at.FromDatetime(occurred_at)
    return envelope


def unwrap(envelope: Envelope) -> Message:
    """Give the event message of an envelope, brought up to the newest schema version.

    Raises:
        UnknownEventTypeError: this version of the contracts does not know the type.
        UndecodableEventError: the payload does not parse, or a step of its upcast fails on it.
        NoUpcasterError: no step leads from its schema version to the newest.
    """
    type_name = envelope.type
    found = BY_NAME.get(type_name) or event_type(type_name)
    is_newest = envelope.schema_version == found.schema_version
    data = envelope.data if is_newest else upcast_data(envelope)
    try:
        return found.decode(data)
    except DecodeError as error:
        raise undecodable(envelope, error) from error


def upcast_data(envelope: Envelope) -> bytes:
    """Give the payload of an envelope as its type's newest schema version has it.

    Raises:
        UnknownEventTypeError, NoUpcasterError: as ``unwrap``.
        UndecodableEventError: a step of its upcast fails on it.
    """
    found = event_type(envelope.type)
    try:
        return upcasting.upcast(found.name, envelope.schema_version, found.schema_version, envelope.data)
    except upcasting.NoUpcasterError:
        raise
    except (DecodeError, ValueError, LookupError) as error:
        raise undecodable(envelope, error) from error


def undecodable(envelope: Envelope, error: Exception) -> UndecodableEventError:
    """Say which event it is whose payload is not what its type says."""
    return UndecodableEventError(
        f"event {envelope.event_id} ({envelope.type}) at position {envelope.position}: {error}"
    )


def actor_name(actor: Actor) -> str:
    """Write an actor for people and filters: "user:alice"."""
    return f"{_KIND_NAMES.get(actor.kind, 'unknown')}:{actor.id}"


def parse_actor(name: str) -> Actor:
    """Read what ``actor_name`` wrote.

    Raises:
        ValueError: not of the form "kind:id".
    """
    kind_name, _, actor_id = name.partition(":")
    for kind, known_name in _KIND_NAMES.items():
        if known_name == kind_name and actor_id:
            return Actor(kind=kind, id=actor_id)
    raise ValueError(f'not an actor: {name!r}, want "user:ID", "service:ID" or "agent:ID"')
