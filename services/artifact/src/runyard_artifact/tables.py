"""The read model of the artifact service. Append-only: one row for each (key, position), never updated."""

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


ARTIFACTS = TableSpec(name="artifact", row_class=ArtifactRow, key=("sha256",))
ORIGINS = TableSpec(
    name="artifact_origin", row_class=OriginRow, key=("sha256", "run_id", "attempt", "path", "project")
)
RUN_ARTIFACTS = TableSpec(name="run_artifact", row_class=RunArtifactRow, key=("run_id", "sha256"))
