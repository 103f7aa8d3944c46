"""What the history of a file says of it to people: what there is, and what a project calls it."""

from __future__ import annotations

from collections.abc import Iterable

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.types_pb2 import Artifact, ArtifactOrigin
from runyard_artifact.domain.artifact import OriginKey, origin_key
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent

ORIGINS_SHOWN_MAX = 1_000
"""Most places that an answer names of a file: what every run makes anew came from more than it could hold."""


def name_in(file: Artifact, project: str) -> str:
    """Give the newest name of a file in a project, or anywhere where it has none there."""
    paths = [each.origin.path for each in file.origins if each.origin.project == project]
    return paths[-1] if project and paths else file.name


def shown(artifact: Artifact) -> Artifact:
    """Give a file with only the newest of its places, as many as are shown."""
    if len(artifact.origins) <= ORIGINS_SHOWN_MAX:
        return artifact
    cut = Artifact()
    cut.CopyFrom(artifact)
    del cut.origins[:-ORIGINS_SHOWN_MAX]
    return cut


def artifact_of(history: Iterable[RecordedEvent]) -> Artifact:
    """Fold the events of one file; without origins when it was never written.

    A place where it was written again is told once, as of the last time.
    """
    artifact = Artifact()
    origins: dict[OriginKey, ArtifactOrigin] = {}
    for event in history:
        written = event.message
        if not isinstance(written, ArtifactWritten):
            continue
        artifact.sha256 = written.sha256
        artifact.size_bytes = written.size_bytes
        artifact.name = written.origin.path
        artifact.position = event.position
        key = origin_key(written.origin)
        origins.pop(key, None)
        origins[key] = ArtifactOrigin(
            origin=written.origin,
            written_at=event.envelope.occurred_at,
            written_by=actor_name(event.envelope.actor),
        )
    artifact.origins.extend(origins.values())
    return artifact
