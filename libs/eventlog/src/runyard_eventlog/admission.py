"""First station of an append: what a command must be before the log is asked, and its stored form."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
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
    "alias": Lane.LANE_DOMAIN,
    "dataset": Lane.LANE_DOMAIN,
    "model": Lane.LANE_DOMAIN,
    "price": Lane.LANE_DOMAIN,
    "log": Lane.LANE_DOMAIN,
    "projection": Lane.LANE_DOMAIN,
    "telemetry": Lane.LANE_TELEMETRY,
}
"""Every stream category and the one lane that its streams live in (also in the database: log.category)."""

ROLE_CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "runyard_scheduler": ("run", "node", "project", "projection"),
    "runyard_artifact": ("artifact", "code", "alias", "dataset", "model", "projection"),
    "runyard_metrics": ("telemetry", "projection"),
    "runyard_cost": ("price", "projection"),
    "runyard_lineage": ("log", "projection"),
}
"""The categories that each database role may append to (also in the database: log.writer)."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NO_KIND = ActorKind.ACTOR_KIND_UNSPECIFIED  # a lookup by name costs 1 us
# What comes before the 36 characters of a command id in a serialised envelope.
_COMMAND_ID_KEY = Envelope(command_id=" " * 36).SerializeToString()[:-36]
_STREAM_NAME = re.compile(r"[a-z][a-z_]*-[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class AdmittedEvent(NamedTuple):
    """One event in the form in which it is stored; in the order of ``log.append``'s arguments."""

    stream: StreamName
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


class AdmittedCommand(NamedTuple):
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
    lane = command.appends[0].events[0].lane
    names: set[str] = {command.command_id}
    streams: list[tuple[StreamName, int]] = []
    events: list[AdmittedEvent] = []
    size_bytes = 0
    for append in command.appends:
        names.add(append.stream)
        streams.append((append.stream, append.expected_version))
        for version, envelope in enumerate(append.events, start=append.expected_version + 1):
            if envelope.lane != lane:
                raise InvalidInput("all events of a command are of one lane", code="MIXED_LANES")
            event = _admit_event(envelope, append, version, command.command_id)
            names.add(event.event_id)
            events.append(event)
            size_bytes += len(event.payload)
    if len(names) != 1 + len(streams) + len(events):
        raise InvalidInput(f"command {command.command_id} holds an id twice", code="ID_TWICE")
    return AdmittedCommand(
        command.command_id,
        command.request_digest or _digest_of(events),
        lane,
        tuple(streams),
        tuple(events),
        frozenset(names),
        size_bytes,
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


def _admit_event(
    envelope: Envelope, append: StreamAppend, version: int, command_id: CommandId
) -> AdmittedEvent:
    # Each field is read once: reading one costs as much as checking it.
    event_id, event_type = envelope.event_id, envelope.type
    correlation_id, causation_id = envelope.correlation_id, envelope.causation_id
    actor = envelope.actor
    if envelope.stream != append.stream:
        raise _refused(envelope, append, "WRONG_STREAM", f"its envelope says stream {envelope.stream!r}")
    if not event_type or not envelope.schema_version:
        raise _refused(envelope, append, "NO_TYPE", "no type or schema version")
    if not correlation_id:
        raise _refused(envelope, append, "NO_CORRELATION", "no correlation_id: what set it off?")
    if not actor.id or actor.kind == _NO_KIND:
        raise _refused(envelope, append, "NO_ACTOR", "no actor: who did it?")
    if not envelope.source or not envelope.HasField("occurred_at"):
        raise _refused(envelope, append, "NO_SOURCE", "no source or occurred_at")
    lane = CATEGORY_LANES.get(stream_category(append.stream))
    if lane is None or lane != envelope.lane:
        raise _refused(envelope, append, "WRONG_LANE", f"its category's lane is {lane}, not {envelope.lane}")
    _check_id(event_id, "event_id")
    if causation_id:
        _check_id(causation_id, "causation_id")
    said = _said_by_producer(envelope).SerializeToString(deterministic=True)
    # Two serialised messages one after the other parse as their merge.
    payload = said + _version_field(version) + _COMMAND_ID_KEY + command_id.encode()
    if len(payload) > EVENT_BYTES_MAX:
        raise _refused(
            envelope,
            append,
            "EVENT_TOO_LARGE",
            f"it has {len(payload)} bytes, more than {EVENT_BYTES_MAX}: put the content into the object "
            "store and name it by SHA-256",
        )
    return AdmittedEvent(
        append.stream,
        version,
        event_type,
        EventId(event_id),
        hashlib.sha256(said).digest(),
        correlation_id,
        causation_id or None,
        actor_name(actor),
        payload,
    )


def _refused(envelope: Envelope, append: StreamAppend, code: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"event {envelope.event_id!r} ({envelope.type or 'no type'}) for {append.stream}: {what}",
        code=code,
        metadata={"stream": append.stream, "event_id": envelope.event_id},
    )


@functools.lru_cache(maxsize=1024)
def _version_field(version: int) -> bytes:
    return Envelope(stream_version=version).SerializeToString()


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


def _digest_of(events: Sequence[AdmittedEvent]) -> bytes:
    return hashlib.sha256(
        b"".join([event.digest + event.version.to_bytes(8, "big") for event in events])
    ).digest()


def _check_id(text: str, what: str) -> None:
    if _UUID.fullmatch(text) is None:
        raise InvalidInput(f"{what} is not a UUID in canonical form: {text!r}", code="BAD_ID")
