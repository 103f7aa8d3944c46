"""A file as people are shown it, folded from the events of its stream."""

from __future__ import annotations

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import ArtifactPropertiesSet, ArtifactTagged
from runyard.artifact.v1.types_pb2 import Artifact, ArtifactOrigin, Origin
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent

ORIGINS_SHOWN_MAX = 1_000
"""Most places that an answer names of a file: what every run makes anew came from more than it could hold."""

OriginKey = tuple[str, str, int, str]
"""run id, path, attempt, project."""


class FileFold:
    """Folds the stream of a file.

    A place where it was written again is told once, as of the last time.
    """

    def __init__(self) -> None:
        """Begin before its bytes are stored."""
        self._file = Artifact()
        """Without its places."""
        self._origins: dict[OriginKey, ArtifactOrigin] = {}

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event."""
        file = self._file
        match event.message:
            case ArtifactWritten() as written:
                self._write(written, event)
            case ArtifactTagged() as tagged if self._origins:
                file.tags.extend(tag for tag in tagged.tags if tag not in file.tags)
            case ArtifactPropertiesSet() as described if self._origins:
                for name, value in described.properties.fields.items():
                    file.properties.fields[name].CopyFrom(value)
            case _:
                pass

    def file(self) -> Artifact | None:
        """Give it with all of its places; None while its bytes are not stored."""
        if not self._origins:
            return None
        file = Artifact(origins=self._origins.values())
        file.MergeFrom(self._file)
        return file

    def _write(self, written: ArtifactWritten, event: RecordedEvent) -> None:
        self._file.sha256 = written.sha256
        self._file.size_bytes = written.size_bytes
        self._file.name = written.origin.path
        self._file.position = event.position
        key = origin_key(written.origin)
        self._origins.pop(key, None)
        self._origins[key] = ArtifactOrigin(
            origin=written.origin,
            written_at=event.envelope.occurred_at,
            written_by=actor_name(event.envelope.actor),
        )


def origin_key(origin: Origin) -> OriginKey:
    """Give what tells one place of a file from another."""
    return (origin.run_id, origin.path, origin.attempt, origin.project)


def leave_old_places_out(file: Artifact) -> None:
    """Keep only the newest places of a file, as many as are shown; it is changed in place."""
    del file.origins[:-ORIGINS_SHOWN_MAX]
