"""Decides the history of one file: announced once, written once for each place it came from.

A run may leave the same bytes in a place again, after others: then they are written again, the newest there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from google.protobuf.message import Message

from runyard.artifact.v1.events_pb2 import ArtifactUploadBegun, ArtifactWritten
from runyard.artifact.v1.types_pb2 import Origin
from runyard_core.decider import Decider
from runyard_core.errors import Rejected

OriginKey = tuple[str, str, int, str]
"""run id, path, attempt, project."""


@dataclass(frozen=True, slots=True)
class BeginUpload:
    """Announce a file that the store does not have."""

    sha256: str
    size_bytes: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class CommitUpload:
    """Record a file whose bytes in the store were checked."""

    sha256: str
    size_bytes: int
    origin: Origin
    object_key: str
    versions_before: int = 0
    """Versions of the path that the attempt stored before this one."""


ArtifactCommand = BeginUpload | CommitUpload
ArtifactEvent = ArtifactUploadBegun | ArtifactWritten


@dataclass(frozen=True, slots=True)
class ArtifactState:
    """What decisions about one file need to know."""

    is_begun: bool = False
    size_bytes: int | None = None
    """None until the file is written."""
    origins: Mapping[OriginKey, int] = field(default_factory=dict)
    """Where it was written, and after how many versions of that path the last time."""

    @property
    def is_written(self) -> bool:
        """True when the bytes were checked once."""
        return self.size_bytes is not None


def decide(state: ArtifactState, command: ArtifactCommand) -> list[ArtifactEvent]:
    """Give the events of a command; none when it is already so.

    Raises:
        Rejected: SIZE_MISMATCH, when the file is known with another size.
    """
    if state.size_bytes is not None and state.size_bytes != command.size_bytes:
        raise Rejected(
            f"file {command.sha256} is known with {state.size_bytes} bytes, not {command.size_bytes}",
            code="SIZE_MISMATCH",
        )
    match command:
        case BeginUpload():
            if state.is_begun or state.is_written:
                return []
            return [
                ArtifactUploadBegun(
                    sha256=command.sha256, size_bytes=command.size_bytes, origin=command.origin
                )
            ]
        case CommitUpload():
            if command.versions_before <= state.origins.get(origin_key(command.origin), -1):
                return []
            return [
                ArtifactWritten(
                    sha256=command.sha256,
                    size_bytes=command.size_bytes,
                    origin=command.origin,
                    object_key=command.object_key,
                    versions_before=command.versions_before,
                )
            ]
        case _:
            assert_never(command)


def evolve(state: ArtifactState, event: Message) -> ArtifactState:
    """Give the state after an event."""
    match event:
        case ArtifactUploadBegun():
            return replace(state, is_begun=True)
        case ArtifactWritten():
            written = {origin_key(event.origin): event.versions_before}
            return replace(state, size_bytes=event.size_bytes, origins={**state.origins, **written})
        case _:
            return state


def origin_key(origin: Origin) -> OriginKey:
    """Give what tells one origin from another."""
    return (origin.run_id, origin.path, origin.attempt, origin.project)


ARTIFACT: Decider[ArtifactState, ArtifactCommand, Message] = Decider(
    initial=ArtifactState(), decide=lambda state, command: list(decide(state, command)), evolve=evolve
)
