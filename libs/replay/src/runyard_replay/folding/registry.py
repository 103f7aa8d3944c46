"""Models, datasets and aliases as people are shown them, folded from the events of their streams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from runyard.artifact.v1.registry_events_pb2 import (
    ArtifactAliasMoved,
    DatasetAliasMoved,
    DatasetVersionCreated,
    ModelVersionRegistered,
)
from runyard.artifact.v1.registry_types_pb2 import ArtifactAlias, DatasetVersion, ModelVersion, VersionFile
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent


@dataclass(slots=True)
class ModelFold:
    """Folds the stream of a model."""

    _versions: dict[str, ModelVersion] = field(default_factory=dict)

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event."""
        registered = event.message
        if not isinstance(registered, ModelVersionRegistered):
            return
        self._versions[str(registered.version)] = ModelVersion(
            project=registered.project,
            model=registered.model,
            version=registered.version,
            file_count=len(registered.files),
            size_bytes=_size(registered.files),
            tags=registered.tags,
            release_note=registered.release_note,
            origin=registered.origin,
            registered_at=event.envelope.occurred_at,
            registered_by=actor_name(event.envelope.actor),
            files=registered.files,
        )

    def named(self, version: str) -> ModelVersion | None:
        """Give a version with its files."""
        return self._versions.get(version)

    def newest_first(self) -> Sequence[ModelVersion]:
        """Give every version with its files."""
        return list(reversed(self._versions.values()))


@dataclass(slots=True)
class DatasetFold:
    """Folds the stream of a dataset."""

    _versions: dict[str, DatasetVersion] = field(default_factory=dict)
    _aliases: dict[str, str] = field(default_factory=dict)

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event."""
        match event.message:
            case DatasetVersionCreated() as created:
                self._versions[created.version] = DatasetVersion(
                    project=created.project,
                    dataset=created.dataset,
                    version=created.version,
                    file_count=len(created.files),
                    size_bytes=_size(created.files),
                    origin=created.origin,
                    created_at=event.envelope.occurred_at,
                    created_by=actor_name(event.envelope.actor),
                    from_version=created.from_version,
                    files=created.files,
                )
            case DatasetAliasMoved() as moved:
                self._aliases[moved.alias] = moved.version
            case _:
                pass

    def named(self, version: str) -> DatasetVersion | None:
        """Give a version, or the one that an alias stands for, with its files and aliases."""
        found = self._versions.get(version) or self._versions.get(self._aliases.get(version, ""))
        return None if found is None else self._with_aliases(found)

    def newest_first(self) -> Sequence[DatasetVersion]:
        """Give every version with its files and aliases."""
        return [self._with_aliases(version) for version in reversed(self._versions.values())]

    def _with_aliases(self, version: DatasetVersion) -> DatasetVersion:
        del version.aliases[:]
        version.aliases.extend(sorted(name for name, of in self._aliases.items() if of == version.version))
        return version


def alias_of(moved: ArtifactAliasMoved, event: RecordedEvent) -> ArtifactAlias:
    """Give an alias of a file after it was moved."""
    return ArtifactAlias(
        project=moved.project,
        alias=moved.alias,
        sha256=moved.sha256,
        moved_at=event.envelope.occurred_at,
        moved_by=actor_name(event.envelope.actor),
    )


def _size(files: Iterable[VersionFile]) -> int:
    return sum(file.size_bytes for file in files)
