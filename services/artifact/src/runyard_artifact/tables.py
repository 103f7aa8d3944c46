"""The read models of the artifact service. Append-only: one row for each (key, position), never updated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from runyard_core.projection import TableSpec


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """A file."""

    sha256: str
    size_bytes: int
    name: str
    """Path of its newest origin."""
    position: int


@dataclass(frozen=True, slots=True)
class OriginRow:
    """A place that a file came from."""

    sha256: str
    run_id: str
    attempt: int
    path: str
    project: str
    written_at: datetime
    written_by: str
    position: int


@dataclass(frozen=True, slots=True)
class RunArtifactRow:
    """A file that a run left behind."""

    run_id: str
    sha256: str
    position: int


@dataclass(frozen=True, slots=True)
class LabelRow:
    """What a file is called."""

    sha256: str
    tags: tuple[str, ...]
    properties_json: str
    position: int


@dataclass(frozen=True, slots=True)
class AliasRow:
    """A name that stands for a file."""

    project: str
    alias: str
    sha256: str
    moved_at: datetime
    moved_by: str
    position: int


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset, with its newest version."""

    project: str
    name: str
    version_count: int
    newest_version: str
    newest_at: datetime
    position: int


@dataclass(frozen=True, slots=True)
class DatasetVersionRow:
    """A version of a dataset; its files are in the log."""

    project: str
    dataset: str
    version: str
    file_count: int
    size_bytes: int
    from_version: str
    run_id: str
    attempt: int
    created_at: datetime
    created_by: str
    position: int


@dataclass(frozen=True, slots=True)
class DatasetAliasRow:
    """A name that stands for a version of a dataset."""

    project: str
    dataset: str
    alias: str
    version: str
    position: int


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model, with its newest version."""

    project: str
    name: str
    newest_version: int
    newest_at: datetime
    position: int


@dataclass(frozen=True, slots=True)
class ModelVersionRow:
    """A version of a model; its files are in the log."""

    project: str
    model: str
    version: int
    file_count: int
    size_bytes: int
    tags: tuple[str, ...]
    release_note: str
    run_id: str
    attempt: int
    registered_at: datetime
    registered_by: str
    position: int


ARTIFACTS = TableSpec(name="artifact", row_class=ArtifactRow, key=("sha256",))
ORIGINS = TableSpec(
    name="artifact_origin", row_class=OriginRow, key=("sha256", "run_id", "attempt", "path", "project")
)
RUN_ARTIFACTS = TableSpec(name="run_artifact", row_class=RunArtifactRow, key=("run_id", "sha256"))
LABELS = TableSpec(name="artifact_label", row_class=LabelRow, key=("sha256",))
ALIASES = TableSpec(name="artifact_alias", row_class=AliasRow, key=("project", "alias"))
DATASETS = TableSpec(name="dataset", row_class=DatasetRow, key=("project", "name"))
DATASET_VERSIONS = TableSpec(
    name="dataset_version", row_class=DatasetVersionRow, key=("project", "dataset", "version")
)
DATASET_ALIASES = TableSpec(
    name="dataset_alias", row_class=DatasetAliasRow, key=("project", "dataset", "alias")
)
MODELS = TableSpec(name="model", row_class=ModelRow, key=("project", "name"))
MODEL_VERSIONS = TableSpec(
    name="model_version", row_class=ModelVersionRow, key=("project", "model", "version")
)
