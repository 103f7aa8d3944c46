"""First station of an append: what a command must be before the log is asked, and its stored form."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from runyard.event.v1.envelope_pb2 import ActorKind, Envelope, Lane
from runyard_contracts.envelope import actor_name
from runyard_contracts.ids import CommandId, EventId, StreamName, stream_category
from runyard_core.errors import InvalidInput
from runyard_eventlog.port import AppendCommand, StreamAppend

STREAMS_MAX = 16
"""Most streams that one command writes."""
EVENTS_MAX = 1_000
"""Most events of one command."""
EVENT_BYTES_MAX = 1_044_480
"""Largest stored event: 1 MiB, which the bus carries, less 4 KiB for its headers."""

CATEGORY_LANES: Mapping[str, Lane.ValueType] = {
    "run": Lane.LANE_DOMAIN,
    "node": Lane.LANE_DOMAIN,
    "project": Lane.LANE_DOMAIN,
    "artifact": Lane.LANE_DOMAIN,
    "code": Lane.LANE_DOMAIN,
    "price": Lane.LANE_DOMAIN,
    "log": Lane.LANE_DOMAIN,
    "projection": Lane.LANE_DOMAIN,
    "telemetry": Lane.LANE_TELEMETRY,
}
"""Every stream category and the one lane that its streams live in (also in the database: log.category)."""

ROLE_CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "runyard_scheduler": ("run", "node", "project", "projection"),
    "runyard_artifact": ("artifact", "code", "projection"),
    "runyard_metrics": ("telemetry", "projection"),
    "runyard_cost": ("price", "projection"),
    "runyard_lineage": ("log", "projection"),
}
"""The categories that each database role may append to (also in the database: log.writer)."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_STREAM_NAME = re.compile(r"[a-z][a-z_]*-[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class AdmittedEvent(NamedTuple):
    """One event in the form in which it is stored; in the order of ``log.append``'s arguments."""

    stream: StreamName
    expected_version: int
    """Version that the stream must have before the command."""
    version: int
    type: str
    event_id: EventId
    digest: bytes
    """SHA-256 of everything that the producer said; what the log fills in is left out."""
    correlation_id: str
    causation_id: str | None
    actor: str
    payload: bytes
    """Serialised envelope without position, recorded_at and after_position."""


@dataclass(frozen=True, slots=True)
class AdmittedCommand:
    """One command in the form in which it is sent to the log."""

    command_id: CommandId
    digest: bytes
    """The request digest, or SHA-256 over the digests and streams of the events."""
    lane: Lane.ValueType
    streams: tuple[tuple[StreamName, int], ...]
    """Each stream with its expected version."""
    events: tuple[AdmittedEvent, ...]
    names: frozenset[str]
    """Its command id, streams and event ids: two commands that share one must not be under way together."""
    size_bytes: int
    """Size of all payloads."""


def admit(command: AppendCommand) -> AdmittedCommand:
    """Check a command and bring it into its stored form.

    Raises:
        InvalidInput: something is missing, malformed or over a limit; the message names the event.
    """
    _check_id(command.command_id, "command_id")
    _check_shape(command)
    events = tuple(_admit_events(command))
    streams = tuple([(append.stream, append.expected_version) for append in command.appends])
    names = {command.command_id, *[stream for stream, _ in streams], *[event.event_id for event in events]}
    if len(names) != 1 + len(streams) + len(events):
        raise InvalidInput(f"command {command.command_id} holds an id twice", code="ID_TWICE")
    return AdmittedCommand(
        command_id=command.command_id,
        digest=command.request_digest or _digest_of(events),
        lane=command.appends[0].events[0].lane,
        streams=streams,
        events=events,
        names=frozenset(names),
        size_bytes=sum([len(event.payload) for event in events]),
    )


def _check_shape(command: AppendCommand) -> None:
    if not 1 <= len(command.appends) <= STREAMS_MAX:
        raise InvalidInput(f"a command writes 1 to {STREAMS_MAX} streams, not {len(command.appends)}")
    count = 0
    for append in command.appends:
        count += len(append.events)
        if not append.events:
            raise InvalidInput(f"no event for stream {append.stream}")
        if append.expected_version < 0:
            raise InvalidInput(
                f"stream {append.stream}: expected version {append.expected_version} is below 0"
            )
        if _STREAM_NAME.fullmatch(append.stream) is None:
            raise InvalidInput(f"not a stream name: {append.stream!r}", code="BAD_STREAM_NAME")
    if count > EVENTS_MAX:
        raise InvalidInput(f"a command has at most {EVENTS_MAX} events, not {count}")


def _admit_events(command: AppendCommand) -> Iterator[AdmittedEvent]:
    lane = command.appends[0].events[0].lane
    for append in command.appends:
        for version, envelope in enumerate(append.events, start=append.expected_version + 1):
            if envelope.lane != lane:
                raise InvalidInput("all events of a command are of one lane", code="MIXED_LANES")
            _check_envelope(envelope, append)
            yield _admit_event(envelope, append.expected_version, version, command.command_id)


def _check_envelope(envelope: Envelope, append: StreamAppend) -> None:
    if envelope.stream != append.stream:
        raise _refused(envelope, append, "WRONG_STREAM", f"its envelope says stream {envelope.stream!r}")
    if not envelope.type or not envelope.schema_version:
        raise _refused(envelope, append, "NO_TYPE", "no type or schema version")
    if not envelope.correlation_id:
        raise _refused(envelope, append, "NO_CORRELATION", "no correlation_id: what set it off?")
    if not envelope.actor.id or envelope.actor.kind == ActorKind.ACTOR_KIND_UNSPECIFIED:
        raise _refused(envelope, append, "NO_ACTOR", "no actor: who did it?")
    if not envelope.source or not envelope.HasField("occurred_at"):
        raise _refused(envelope, append, "NO_SOURCE", "no source or occurred_at")
    lane = CATEGORY_LANES.get(stream_category(append.stream))
    if lane is None or lane != envelope.lane:
        raise _refused(envelope, append, "WRONG_LANE", f"its category's lane is {lane}, not {envelope.lane}")


def _refused(envelope: Envelope, append: StreamAppend, code: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"event {envelope.event_id!r} ({envelope.type or 'no type'}) for {append.stream}: {what}",
        code=code,
        metadata={"stream": append.stream, "event_id": envelope.event_id},
    )


def _admit_event(
    envelope: Envelope, expected_version: int, version: int, command_id: CommandId
) -> AdmittedEvent:
    _check_id(envelope.event_id, "event_id")
    if envelope.causation_id:
        _check_id(envelope.causation_id, "causation_id")
    said = _said_by_producer(envelope).SerializeToString(deterministic=True)
    # Two serialised messages one after the other parse as their merge.
    payload = said + Envelope(stream_version=version, command_id=command_id).SerializeToString()
    if len(payload) > EVENT_BYTES_MAX:
        raise InvalidInput(
            f"event {envelope.event_id} ({envelope.type}) for {envelope.stream} has {len(payload)} bytes, "
            f"more than {EVENT_BYTES_MAX}: put the content into the object store and name it by SHA-256",
            code="EVENT_TOO_LARGE",
        )
    return AdmittedEvent(
        stream=StreamName(envelope.stream),
        expected_version=expected_version,
        version=version,
        type=envelope.type,
        event_id=EventId(envelope.event_id),
        digest=hashlib.sha256(said).digest(),
        correlation_id=envelope.correlation_id,
        causation_id=envelope.causation_id or None,
        actor=actor_name(envelope.actor),
        payload=payload,
    )


def _said_by_producer(envelope: Envelope) -> Envelope:
    """Leave out what the log fills in, which an event that went through a log already may carry."""
    if not (
        envelope.stream_version
        or envelope.command_id
        or envelope.position
        or envelope.after_position
        or envelope.HasField("recorded_at")
    ):
        return envelope
    said = Envelope()
    said.CopyFrom(envelope)
    for given_by_log in ("stream_version", "command_id", "position", "after_position", "recorded_at"):
        said.ClearField(given_by_log)
    return said


def _digest_of(events: tuple[AdmittedEvent, ...]) -> bytes:
    digest = hashlib.sha256()
    for event in events:
        digest.update(event.digest)
        digest.update(event.version.to_bytes(8, "big"))
    return digest.digest()


def _check_id(text: str, what: str) -> None:
    if _UUID.fullmatch(text) is None:
        raise InvalidInput(f"{what} is not a UUID in canonical form: {text!r}", code="BAD_ID")
