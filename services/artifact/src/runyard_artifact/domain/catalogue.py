"""What the history of a file says of it to people: what there is, and what a project calls it."""

from __future__ import annotations

from collections.abc import Iterable

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.types_pb2 import Artifact
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.files import FileFold


def name_in(file: Artifact, project: str) -> str:
    """Give the newest name of a file in a project, or anywhere where it has none there."""
    paths = [each.origin.path for each in file.origins if each.origin.project == project]
    return paths[-1] if project and paths else file.name


def artifact_of(history: Iterable[RecordedEvent]) -> Artifact | None:
    """Fold the events of one file, but for what runs said of it; None when it was never written."""
    fold = FileFold()
    for event in history:
        if isinstance(event.message, ArtifactWritten):
            fold.apply(event)
    return fold.file()
