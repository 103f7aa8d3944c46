"""Decides the history of one model: files promoted under its name, version after version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from runyard.artifact.v1.registry_events_pb2 import ModelVersionRegistered
from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard_artifact.domain.version_size import check_size
from runyard_core.decider import Decider
from runyard_core.errors import NotFound


@dataclass(frozen=True, slots=True)
class RegisterVersion:
    """Promote files as the model's next version."""

    project: str
    model: str
    files: Sequence[VersionFile]
    tags: Sequence[str]
    release_note: str
    origin: Origin


ModelState = tuple[ModelVersionRegistered, ...]
"""The versions, oldest first."""


def decide(state: ModelState, command: RegisterVersion) -> list[Message]:
    """Give the event of the next version; none when this attempt has registered these files already.

    Raises:
        Rejected: MODEL_TOO_LARGE.
    """
    files = sorted(command.files, key=lambda file: file.path)
    if any(each.origin == command.origin and list(each.files) == files for each in state):
        return []
    check_size(files, f"model://{command.model}/{len(state) + 1}", "MODEL_TOO_LARGE")
    return [
        ModelVersionRegistered(
            project=command.project,
            model=command.model,
            version=len(state) + 1,
            files=files,
            tags=command.tags,
            release_note=command.release_note,
            origin=command.origin,
        )
    ]


def evolve(state: ModelState, event: Message) -> ModelState:
    """Give the state after an event."""
    return (*state, event) if isinstance(event, ModelVersionRegistered) else state


def version_of(state: ModelState, number: str, shown: str) -> ModelVersionRegistered:
    """Give a version; the newest when no number is said.

    Raises:
        NotFound: MODEL_NOT_FOUND or MODEL_VERSION_NOT_FOUND.
    """
    if not state:
        raise no_model(shown)
    index = int(number or len(state)) - 1
    if index >= len(state):
        raise NotFound(
            f"there is no such version: {shown}; the newest is {len(state)}", code="MODEL_VERSION_NOT_FOUND"
        )
    return state[index]


def no_model(shown: str) -> NotFound:
    """Say that there is no model of a name (MODEL_NOT_FOUND)."""
    return NotFound(
        f'there is no model of that name: {shown}; "runyard models" lists them', code="MODEL_NOT_FOUND"
    )


MODEL: Decider[ModelState, RegisterVersion, Message] = Decider(initial=(), decide=decide, evolve=evolve)
