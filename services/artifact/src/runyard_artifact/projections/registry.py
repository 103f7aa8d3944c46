"""The registry: from events about names to the rows of files, datasets, models and aliases."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict

from runyard.artifact.v1.registry_events_pb2 import (
    ArtifactAliasMoved,
    ArtifactPropertiesSet,
    ArtifactTagged,
    DatasetAliasMoved,
    DatasetVersionCreated,
    ModelVersionRegistered,
)
from runyard_artifact import tables
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Put, RowKey, Rows, TableSpec

REGISTRY_VERSION = 1


class RegistryProjection:
    """Folds the log into the registry."""

    name = "registry"
    version = REGISTRY_VERSION
    tables: tuple[TableSpec[Any], ...] = (
        tables.LABELS,
        tables.ALIASES,
        tables.DATASETS,
        tables.DATASET_VERSIONS,
        tables.DATASET_ALIASES,
        tables.MODELS,
        tables.MODEL_VERSIONS,
    )
    event_types = frozenset(
        {
            "runyard.artifact.tagged",
            "runyard.artifact.properties_set",
            "runyard.artifact.alias_moved",
            "runyard.dataset.version_created",
            "runyard.dataset.alias_moved",
            "runyard.model.version_registered",
        }
    )

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        """The labels of a file, and the counters of a dataset."""
        match event.message:
            case ArtifactTagged() | ArtifactPropertiesSet() as labelled:
                return (RowKey(tables.LABELS.name, (labelled.sha256,)),)
            case DatasetVersionCreated() as created:
                return (RowKey(tables.DATASETS.name, (created.project, created.dataset)),)
            case _:
                return ()

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any]]:
        """Give the rows of one event."""
        match event.message:
            case ArtifactTagged() | ArtifactPropertiesSet() as labelled:
                return (_put_labels(event, labelled, rows),)
            case ArtifactAliasMoved() as moved:
                return (_put_alias(event, moved),)
            case DatasetVersionCreated() as created:
                return _put_dataset_version(event, created, rows)
            case DatasetAliasMoved() as moved_version:
                return (_put_dataset_alias(event, moved_version),)
            case ModelVersionRegistered() as registered:
                return _put_model_version(event, registered)
            case _:
                return ()


def _put_labels(
    event: RecordedEvent, labelled: ArtifactTagged | ArtifactPropertiesSet, rows: Rows
) -> Put[Any]:
    former = rows.get(tables.LABELS, labelled.sha256)
    tags = former.tags if former else ()
    properties: dict[str, object] = json.loads(former.properties_json) if former else {}
    if isinstance(labelled, ArtifactTagged):
        # A tag with a NUL is known by what the row before has of it.
        named = (tag.replace("\0", "\ufffd") for tag in labelled.tags)
        tags = (*tags, *(tag for tag in named if tag not in tags))
    else:
        properties.update(MessageToDict(labelled.properties))
    return Put(
        tables.LABELS,
        tables.LabelRow(
            sha256=labelled.sha256,
            tags=tags,
            properties_json=json.dumps(properties, sort_keys=True),
            position=event.position,
        ),
    )


def _put_alias(event: RecordedEvent, moved: ArtifactAliasMoved) -> Put[Any]:
    return Put(
        tables.ALIASES,
        tables.AliasRow(
            project=moved.project,
            alias=moved.alias,
            sha256=moved.sha256,
            moved_at=_time(event),
            moved_by=actor_name(event.envelope.actor),
            position=event.position,
        ),
    )


def _put_dataset_version(
    event: RecordedEvent, created: DatasetVersionCreated, rows: Rows
) -> Iterable[Put[Any]]:
    former = rows.get(tables.DATASETS, created.project, created.dataset)
    yield Put(
        tables.DATASETS,
        tables.DatasetRow(
            project=created.project,
            name=created.dataset,
            version_count=(former.version_count if former else 0) + 1,
            newest_version=created.version,
            newest_at=_time(event),
            position=event.position,
        ),
    )
    yield Put(
        tables.DATASET_VERSIONS,
        tables.DatasetVersionRow(
            project=created.project,
            dataset=created.dataset,
            version=created.version,
            file_count=len(created.files),
            size_bytes=sum(file.size_bytes for file in created.files),
            from_version=created.from_version,
            run_id=created.origin.run_id,
            attempt=created.origin.attempt,
            created_at=_time(event),
            created_by=actor_name(event.envelope.actor),
            position=event.position,
        ),
    )


def _put_dataset_alias(event: RecordedEvent, moved: DatasetAliasMoved) -> Put[Any]:
    return Put(
        tables.DATASET_ALIASES,
        tables.DatasetAliasRow(
            project=moved.project,
            dataset=moved.dataset,
            alias=moved.alias,
            version=moved.version,
            position=event.position,
        ),
    )


def _put_model_version(event: RecordedEvent, registered: ModelVersionRegistered) -> Iterable[Put[Any]]:
    yield Put(
        tables.MODELS,
        tables.ModelRow(
            project=registered.project,
            name=registered.model,
            newest_version=registered.version,
            newest_at=_time(event),
            position=event.position,
        ),
    )
    yield Put(
        tables.MODEL_VERSIONS,
        tables.ModelVersionRow(
            project=registered.project,
            model=registered.model,
            version=registered.version,
            file_count=len(registered.files),
            size_bytes=sum(file.size_bytes for file in registered.files),
            tags=tuple(registered.tags),
            release_note=registered.release_note,
            run_id=registered.origin.run_id,
            attempt=registered.origin.attempt,
            registered_at=_time(event),
            registered_by=actor_name(event.envelope.actor),
            position=event.position,
        ),
    )


def _time(event: RecordedEvent) -> datetime:
    return event.envelope.occurred_at.ToDatetime(tzinfo=UTC)
