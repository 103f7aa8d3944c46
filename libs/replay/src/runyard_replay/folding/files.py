"""A file as people are shown it, folded from the events of its stream."""

from __future__ import annotations

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.types_pb2 import Artifact, ArtifactOrigin
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent


def file_after(file: Artifact | None, event: RecordedEvent) -> Artifact | None:
    """Give the file after the next event of its stream; None while its bytes are not stored."""
    written = event.message
    if not isinstance(written, ArtifactWritten):
        return file
    after = Artifact()
    if file is not None:
        after.CopyFrom(file)
    after.sha256 = written.sha256
    after.size_bytes = written.size_bytes
    after.name = written.origin.path
    after.origins.append(
        ArtifactOrigin(
            origin=written.origin,
            written_at=event.envelope.occurred_at,
            written_by=actor_name(event.envelope.actor),
        )
    )
    after.position = event.position
    return after
