"""Datasets, models and the files of their versions, line by line."""

from __future__ import annotations

from collections.abc import Iterable

from runyard.artifact.v1.registry_types_pb2 import Dataset, DatasetVersion, Model, ModelVersion, VersionFile
from runyard_cli.table import Row, say_table
from runyard_cli.words import short_run_id, size_words, time_words

_DATASET_SCHEME = "dataset://"


def say_datasets(datasets: Iterable[Dataset]) -> None:
    """Write datasets."""
    say_table(("DATASET", "VERSIONS", "NEWEST", "SINCE"), dataset_rows(datasets), right=(1,))


def say_dataset_versions(versions: Iterable[DatasetVersion]) -> None:
    """Write versions of a dataset."""
    headings = ("VERSION", "ALIASES", "FILES", "SIZE", "CREATED", "BY RUN", "FROM")
    say_table(headings, dataset_version_rows(versions), right=(2, 3))


def say_models(models: Iterable[Model]) -> None:
    """Write models."""
    say_table(("MODEL", "VERSIONS", "SINCE"), model_rows(models), right=(1,))


def say_model_versions(versions: Iterable[ModelVersion]) -> None:
    """Write versions of a model."""
    headings = ("VERSION", "FILES", "SIZE", "REGISTERED", "BY RUN", "TAGS", "NOTE")
    say_table(headings, model_version_rows(versions), right=(0, 1, 2))


def say_files(files: Iterable[VersionFile]) -> None:
    """Write the files of a version."""
    say_table(("FILE", "SIZE", "REFERENCE"), file_rows(files), right=(1,))


def dataset_rows(datasets: Iterable[Dataset]) -> list[Row]:
    """Give the lines of datasets."""
    return [
        (each.name, str(each.version_count), each.newest_version, time_words(each.newest_at))
        for each in datasets
    ]


def dataset_version_rows(versions: Iterable[DatasetVersion]) -> list[Row]:
    """Give the lines of a dataset's versions."""
    return [
        (
            each.version,
            ", ".join(each.aliases),
            str(each.file_count),
            size_words(each.size_bytes),
            time_words(each.created_at),
            short_run_id(each.origin.run_id),
            each.from_version.removeprefix(_DATASET_SCHEME),
        )
        for each in versions
    ]


def model_rows(models: Iterable[Model]) -> list[Row]:
    """Give the lines of models."""
    return [(each.name, str(each.version_count), time_words(each.newest_at)) for each in models]


def model_version_rows(versions: Iterable[ModelVersion]) -> list[Row]:
    """Give the lines of a model's versions."""
    return [
        (
            str(each.version),
            str(each.file_count),
            size_words(each.size_bytes),
            time_words(each.registered_at),
            short_run_id(each.origin.run_id),
            ", ".join(each.tags),
            each.release_note,
        )
        for each in versions
    ]


def file_rows(files: Iterable[VersionFile]) -> list[Row]:
    """Give the lines of files."""
    return [(each.path, size_words(each.size_bytes), f"datum://{each.sha256}") for each in files]
