"""What is kept under a project, folded from its own stream and from those of what is named in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.artifact.v1.registry_events_pb2 import (
    ArtifactAliasMoved,
    DatasetVersionCreated,
    ModelVersionRegistered,
)
from runyard.artifact.v1.registry_types_pb2 import ArtifactAlias, Dataset, Model
from runyard.history.v1.history_service_pb2 import ProjectState
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.secret_service_pb2 import Secret
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.registry import alias_of

NAME_TYPES = (
    "runyard.artifact.alias_moved",
    "runyard.dataset.version_created",
    "runyard.model.version_registered",
)
"""What names something in a project, each in a stream of its own."""


@dataclass(slots=True)
class ProjectFold:
    """Folds everything of one project; events of others change nothing."""

    project: str
    created_at: Timestamp | None = None
    number_of_run: dict[str, int] = field(default_factory=dict)
    _secrets: dict[str, Secret] = field(default_factory=dict)
    _aliases: dict[str, ArtifactAlias] = field(default_factory=dict)
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _models: dict[str, Model] = field(default_factory=dict)

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event."""
        message = event.message
        if getattr(message, "project", "") != self.project:
            return
        match message:
            case ev.ProjectCreated():
                self.created_at = event.envelope.occurred_at
            case ev.ProjectRunNumbered():
                self.number_of_run[message.run_id] = message.number
            case ev.ProjectSecretSet():
                self._secrets[message.name] = Secret(
                    project=self.project,
                    name=message.name,
                    changed_at=event.envelope.occurred_at,
                    changed_by=actor_name(event.envelope.actor),
                )
            case ev.ProjectSecretRemoved():
                self._secrets.pop(message.name, None)
            case ArtifactAliasMoved():
                self._aliases[message.alias] = alias_of(message, event)
            case DatasetVersionCreated():
                self._count_dataset(message, event)
            case ModelVersionRegistered():
                self._count_model(message, event)
            case _:
                pass

    def secrets(self) -> list[Secret]:
        """Give the names of secrets that are set, in their order."""
        return [self._secrets[name] for name in sorted(self._secrets)]

    def state(self) -> ProjectState:
        """Give the project as people are shown it, everything by name."""
        return ProjectState(
            project=self.project,
            created_at=self.created_at,
            run_count=len(self.number_of_run),
            secrets=self.secrets(),
            aliases=[self._aliases[name] for name in sorted(self._aliases)],
            datasets=[self._datasets[name] for name in sorted(self._datasets)],
            models=[self._models[name] for name in sorted(self._models)],
        )

    def _count_dataset(self, created: DatasetVersionCreated, event: RecordedEvent) -> None:
        dataset = self._datasets.setdefault(
            created.dataset, Dataset(project=self.project, name=created.dataset)
        )
        dataset.version_count += 1
        dataset.newest_version = created.version
        dataset.newest_at.CopyFrom(event.envelope.occurred_at)

    def _count_model(self, registered: ModelVersionRegistered, event: RecordedEvent) -> None:
        model = self._models.setdefault(registered.model, Model(project=self.project, name=registered.model))
        model.version_count += 1
        model.newest_version = registered.version
        model.newest_at.CopyFrom(event.envelope.occurred_at)
