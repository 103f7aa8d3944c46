"""Decides the history of one dataset: versions that never change, and aliases that move between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from google.protobuf.message import Message

from runyard.artifact.v1.registry_events_pb2 import DatasetAliasMoved, DatasetVersionCreated
from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard_artifact.domain.version_size import check_size
from runyard_core.decider import Decider
from runyard_core.errors import NotFound, Rejected


@dataclass(frozen=True, slots=True)
class CreateVersion:
    """Make a version of these files, and let aliases stand for it."""

    project: str
    dataset: str
    version: str
    files: Sequence[VersionFile]
    """All of them, those of ``from_version`` too; one for each path."""
    from_version: str
    aliases: Sequence[str]
    origin: Origin


@dataclass(frozen=True, slots=True)
class DatasetState:
    """A dataset as it is."""

    versions: Mapping[str, Sequence[VersionFile]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, name: str) -> str | None:
        """Give the version that a name stands for: an alias, or the version itself."""
        version = self.aliases.get(name, name)
        return version if version in self.versions else None


def decide(state: DatasetState, command: CreateVersion) -> list[Message]:
    """Give the events of a new version and its aliases; none for what is already so.

    Raises:
        Rejected: DATASET_VERSION_EXISTS with other files, DATASET_ALIAS_TAKEN by a version of that name, or
            the other way round, DATASET_TOO_LARGE, DATASET_EMPTY.
    """
    files = sorted(command.files, key=lambda file: file.path)
    name = f"dataset://{command.dataset}/{command.version}"
    if not files:
        raise Rejected(f"{name} would have 0 files; want 1 or more", code="DATASET_EMPTY")
    for alias in command.aliases:
        if alias in state.versions or alias == command.version:
            raise Rejected(
                f"{alias!r} is a version of {command.dataset}, not an alias", code="DATASET_ALIAS_TAKEN"
            )
    if command.version in state.aliases:
        raise Rejected(f"{name} is an alias, not a version", code="DATASET_ALIAS_TAKEN")
    known = state.versions.get(command.version)
    events: list[Message] = []
    if known is None:
        check_size(files, name, "DATASET_TOO_LARGE")
        events.append(
            DatasetVersionCreated(
                project=command.project,
                dataset=command.dataset,
                version=command.version,
                files=files,
                from_version=command.from_version,
                origin=command.origin,
            )
        )
    elif list(known) != files:
        raise Rejected(
            f"{name} exists with other files; versions never change, so give this one another name",
            code="DATASET_VERSION_EXISTS",
        )
    return [*events, *_moved_aliases(state, command)]


def _moved_aliases(state: DatasetState, command: CreateVersion) -> list[Message]:
    return [
        DatasetAliasMoved(
            project=command.project,
            dataset=command.dataset,
            alias=alias,
            version=command.version,
            previous_version=state.aliases.get(alias, ""),
        )
        for alias in dict.fromkeys(command.aliases)
        if state.aliases.get(alias) != command.version
    ]


def evolve(state: DatasetState, event: Message) -> DatasetState:
    """Give the state after an event."""
    match event:
        case DatasetVersionCreated():
            return replace(state, versions={**state.versions, event.version: list(event.files)})
        case DatasetAliasMoved():
            return replace(state, aliases={**state.aliases, event.alias: event.version})
        case _:
            return state


def files_of(state: DatasetState, name: str, shown: str) -> tuple[str, Sequence[VersionFile]]:
    """Give the version that a name stands for, and its files.

    Raises:
        NotFound: DATASET_NOT_FOUND or DATASET_VERSION_NOT_FOUND.
    """
    if not state.versions:
        raise no_dataset(shown)
    version = state.resolve(name)
    if version is None:
        newest = list(state.versions)[-1]
        raise NotFound(
            f"there is no such version: {shown}; the newest is {newest}", code="DATASET_VERSION_NOT_FOUND"
        )
    return version, state.versions[version]


def no_dataset(shown: str) -> NotFound:
    """Say that there is no dataset of a name (DATASET_NOT_FOUND)."""
    return NotFound(
        f'there is no dataset of that name: {shown}; "runyard datasets" lists them', code="DATASET_NOT_FOUND"
    )


DATASET: Decider[DatasetState, CreateVersion, Message] = Decider(
    initial=DatasetState(), decide=decide, evolve=evolve
)
