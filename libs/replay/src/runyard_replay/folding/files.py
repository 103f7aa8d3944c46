"""A file as people are shown it, folded from the events of its stream."""

from __future__ import annotations

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import ArtifactPropertiesSet, ArtifactTagged
from runyard.artifact.v1.types_pb2 import Artifact, ArtifactOrigin
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent


def file_after(file: Artifact | None, event: RecordedEvent) -> Artifact | None:
    """Give the file after the next event of its stream; None while its bytes are not stored."""
    message = event.message
    if isinstance(message, ArtifactWritten):
        return _written(_copy(file), message, event)
    if file is None or not isinstance(message, ArtifactTagged | ArtifactPropertiesSet):
        return file
    after = _copy(file)
    if isinstance(message, ArtifactTagged):
        after.tags.extend(tag for tag in message.tags if tag not in after.tags)
    else:
        for name, value in message.properties.fields.items():
            after.properties.fields[name].CopyFrom(value)
    return after


def _written(file: Artifact, written: ArtifactWritten, event: RecordedEvent) -> Artifact:
    file.sha256 = written.sha256
    file.size_bytes = written.size_bytes
    file.name = written.origin.path
    for index, told in enumerate(file.origins):
        if told.origin == written.origin:
            # It was left there again, after other bytes: the place is told once, as of the last time.
            del file.origins[index]
            break
    file.origins.append(
        ArtifactOrigin(
            origin=written.origin,
            written_at=event.envelope.occurred_at,
            written_by=actor_name(event.envelope.actor),
        )
    )
    file.position = event.position
    return file


def _copy(file: Artifact | None) -> Artifact:
    copy = Artifact()
    if file is not None:
        copy.CopyFrom(file)
    return copy
