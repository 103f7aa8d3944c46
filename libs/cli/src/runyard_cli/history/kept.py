"""What was kept under a project at a moment: models, datasets, aliases and names of secrets, for people."""

from __future__ import annotations

from runyard.history.v1.history_service_pb2 import DatasetState, ModelState, ProjectState
from runyard_cli.output import safe, say
from runyard_cli.registry_lines import (
    say_dataset_versions,
    say_datasets,
    say_files,
    say_model_versions,
    say_models,
)
from runyard_cli.table import say_table
from runyard_cli.words import time_words
from runyard_core.counted import count_words


def say_model(model: ModelState) -> None:
    """Write a model's versions; of one that was named also its files."""
    say(safe(f"model {model.name} of {model.project}, {count_words(len(model.versions), 'version')}"))
    say_model_versions(model.versions)
    for version in model.versions:
        if version.files:
            say_files(version.files)


def say_dataset(dataset: DatasetState) -> None:
    """Write a dataset's versions; of one that was named also its files."""
    say(safe(f"dataset {dataset.name} of {dataset.project}, {count_words(len(dataset.versions), 'version')}"))
    say_dataset_versions(dataset.versions)
    for version in dataset.versions:
        if version.files:
            say_files(version.files)


def say_project(project: ProjectState) -> None:
    """Write what a project had; kinds of which it had nothing are left out."""
    created = f", since {time_words(project.created_at)}" if project.HasField("created_at") else ""
    say(safe(f"project {project.project}: {count_words(project.run_count, 'run')}{created}"))
    if project.secrets:
        rows = [(each.name, time_words(each.changed_at), each.changed_by) for each in project.secrets]
        say_table(("SECRET", "SET", "BY"), rows)
    if project.aliases:
        aliases = [
            (f"datum://{each.alias}", f"datum://{each.sha256}", time_words(each.moved_at), each.moved_by)
            for each in project.aliases
        ]
        say_table(("ALIAS", "STANDS FOR", "SINCE", "BY"), aliases)
    if project.datasets:
        say_datasets(project.datasets)
    if project.models:
        say_models(project.models)
