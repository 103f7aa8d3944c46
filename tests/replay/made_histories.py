"""Histories that nobody ran: every event of the contracts, with values out of small pools, so that they meet.

Whatever the fields say, an event is in a stream of its category and its versions have no gap; nothing else is
promised, so a projection meets leases that nobody granted and files of runs that never were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import EventId, Position, deterministic_id, sha256_of, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import BY_NAME, EventType

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
_DEPTH_MAX = 3
_SHA256S = tuple(sha256_of(bytes([number])) for number in range(3))
_POOLS: Mapping[str, Sequence[str]] = {
    "run_id": ("run1", "run2"),
    "node_id": ("node1", "node2"),
    "lease_id": ("lease1", "lease2", "lease3"),
    "project": ("digits",),
    "gpu_uuid": ("GPU-1", "GPU-2"),
}
_CATEGORIES = {"environment": "run", "gpu": "telemetry", "host": "telemetry", "metric": "telemetry"}
_OWN_STREAMS = {"run": "run_id", "node": "node_id", "project": "project", "artifact": "sha256"}
_CONTEXT = Context(parse_actor("user:alice"), "request", "/made")


def made_history(chance: Random, lane: Lane.ValueType, size: int) -> list[RecordedEvent]:
    """Make a history of one lane."""
    types = sorted((each for each in BY_NAME.values() if each.lane == lane), key=lambda each: each.name)
    versions: defaultdict[str, int] = defaultdict(int)
    return [
        _recorded(chance.choice(types), chance, versions, Position(number)) for number in range(1, size + 1)
    ]


def _recorded(
    event: EventType, chance: Random, versions: defaultdict[str, int], position: Position
) -> RecordedEvent:
    message = _filled(event.message_class(), chance)
    stream = stream_name(*_stream(event, message, chance))
    versions[stream] += 1
    envelope = wrap(
        message,
        stream,
        _CONTEXT,
        BEGUN + timedelta(seconds=position),
        event_id=EventId(deterministic_id("made", position)),
    )
    envelope.position, envelope.stream_version = position, versions[stream]
    return RecordedEvent(envelope)


def _stream(event: EventType, message: Message, chance: Random) -> tuple[str, str]:
    if event.lane == Lane.LANE_TELEMETRY:
        return "telemetry", f"{chance.choice(_POOLS['node_id'])}.{chance.choice(('spool1', 'spool2'))}"
    category = event.name.split(".")[1]
    category = _CATEGORIES.get(category, category)
    named = getattr(message, _OWN_STREAMS.get(category, ""), "")
    return category, named or f"{category}1"


def _filled(message: Message, chance: Random, depth: int = 0) -> Message:
    if message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        if hasattr(message, "seconds"):
            message.seconds = chance.randrange(1_000)
        return message
    for field in message.DESCRIPTOR.fields:
        assert isinstance(field, FieldDescriptor)
        if chance.random() < 0.25 or (field.message_type and field.message_type.GetOptions().map_entry):
            continue
        if field.message_type is not None:
            if depth < _DEPTH_MAX:
                own = getattr(message, field.name)
                _filled(own.add() if field.is_repeated else own, chance, depth + 1)
                if not field.is_repeated:
                    own.SetInParent()
        elif field.is_repeated:
            getattr(message, field.name).extend(_scalar(field, chance) for _ in range(chance.randrange(3)))
        else:
            setattr(message, field.name, _scalar(field, chance))
    return message


def _scalar(field: FieldDescriptor, chance: Random) -> object:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return chance.choice((b"", b"bytes"))
            return chance.choice(_words(field.name))
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return chance.choice(field.enum_type.values).number
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return chance.choice((0.0, 0.5, -3.25))
        case _:
            return chance.randrange(4)


def _words(name: str) -> Sequence[str]:
    if "sha256" in name:
        return _SHA256S
    return _POOLS.get(name.removesuffix("s"), ("", "a", "b"))
