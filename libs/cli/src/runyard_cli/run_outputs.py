"""What a run left behind, path by path: bytes may have several paths, and a path several versions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runyard.artifact.v1.types_pb2 import Artifact

_Age = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class RunOutput:
    """A file as a run left it behind."""

    path: str
    """Below the outputs folder."""
    sha256: str
    """Its bytes."""
    size_bytes: int
    """Their number."""
    version: int = 1
    """Of those that the run stored at this path while it ran, the oldest is 1."""
    version_count: int = 1
    """How many there are."""

    @property
    def is_newest(self) -> bool:
        """Say whether nothing was stored at the path later."""
        return self.version == self.version_count


def outputs_of(run_id: str, artifacts: Sequence[Artifact]) -> list[RunOutput]:
    """Give every file of a run by its path, the versions of a path oldest first.

    A version of a later attempt is a later one, whenever it was stored: that attempt went on from the others.

    Args:
        run_id: the run.
        artifacts: what it left behind; origins of other runs are left out.
    """
    sizes = {artifact.sha256: artifact.size_bytes for artifact in artifacts}
    versions: dict[str, dict[str, _Age]] = {}
    for artifact in artifacts:
        for each in artifact.origins:
            if each.origin.run_id != run_id:
                continue
            age = (each.origin.attempt, each.written_at.seconds, each.written_at.nanos)
            of_path = versions.setdefault(each.origin.path, {})
            of_path[artifact.sha256] = max(age, of_path.get(artifact.sha256, age))
    return [
        RunOutput(path, sha256, sizes[sha256], version, len(of_path))
        for path, of_path in sorted(versions.items())
        for version, sha256 in enumerate(sorted(of_path, key=of_path.__getitem__), start=1)
    ]


def newest_outputs(run_id: str, artifacts: Sequence[Artifact]) -> list[RunOutput]:
    """Give the files of a run by path, of each path the version that is left."""
    return [each for each in outputs_of(run_id, artifacts) if each.is_newest]
