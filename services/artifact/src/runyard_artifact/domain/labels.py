"""Decides what a file is called: its tags and properties, and the aliases that stand for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import (
    ArtifactAliasMoved,
    ArtifactPropertiesSet,
    ArtifactTagged,
)
from runyard.artifact.v1.types_pb2 import Origin
from runyard_core.decider import Decider
from runyard_core.errors import Rejected

BYTES_MAX = 900_000
"""Most that is said of one file at once, tags and properties: an event holds 1,044,480 bytes."""


@dataclass(frozen=True, slots=True)
class LabelFile:
    """Give a file tags and properties."""

    sha256: str
    tags: tuple[str, ...]
    properties: Struct
    origin: Origin


@dataclass(frozen=True, slots=True)
class MoveAlias:
    """Let an alias stand for a file from now on."""

    project: str
    alias: str
    sha256: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class LabelState:
    """What a file is called."""

    is_written: bool = False
    tags: frozenset[str] = frozenset()
    properties: Mapping[str, Value] = field(default_factory=dict)


def decide_label(state: LabelState, command: LabelFile) -> list[Message]:
    """Give the events of new tags and changed properties; none when it is already so.

    Raises:
        Rejected: OBJECT_MISSING, there is no such file; LABELS_TOO_LARGE.
    """
    if not state.is_written:
        raise Rejected(f"there is no file {command.sha256}", code="OBJECT_MISSING")
    size_bytes = command.properties.ByteSize() + sum(len(tag.encode()) for tag in command.tags)
    if size_bytes > BYTES_MAX:
        raise Rejected(
            f"tags and properties of {command.origin.path!r} take {size_bytes} bytes; "
            f"want at most {BYTES_MAX}",
            code="LABELS_TOO_LARGE",
        )
    events: list[Message] = []
    if new := [tag for tag in dict.fromkeys(command.tags) if tag not in state.tags]:
        events.append(ArtifactTagged(sha256=command.sha256, tags=new, origin=command.origin))
    changed = {
        name: value
        for name, value in command.properties.fields.items()
        if name not in state.properties or state.properties[name] != value
    }
    if changed:
        properties = Struct(fields=changed)
        events.append(
            ArtifactPropertiesSet(sha256=command.sha256, properties=properties, origin=command.origin)
        )
    return events


def evolve_label(state: LabelState, event: Message) -> LabelState:
    """Give the state after an event."""
    match event:
        case ArtifactWritten():
            return replace(state, is_written=True)
        case ArtifactTagged():
            return replace(state, tags=state.tags | set(event.tags))
        case ArtifactPropertiesSet():
            return replace(state, properties={**state.properties, **event.properties.fields})
        case _:
            return state


def decide_alias(state: str, command: MoveAlias) -> list[Message]:
    """Give the event of a moved alias; none when it stands there already. The state is where it stands."""
    if command.sha256 == state:
        return []
    return [
        ArtifactAliasMoved(
            project=command.project,
            alias=command.alias,
            sha256=command.sha256,
            previous_sha256=state,
            origin=command.origin,
        )
    ]


def evolve_alias(state: str, event: Message) -> str:
    """Give the file that an alias stands for after an event."""
    return event.sha256 if isinstance(event, ArtifactAliasMoved) else state


LABELS: Decider[LabelState, LabelFile, Message] = Decider(
    initial=LabelState(), decide=decide_label, evolve=evolve_label
)
ALIAS: Decider[str, MoveAlias, Message] = Decider(initial="", decide=decide_alias, evolve=evolve_alias)
