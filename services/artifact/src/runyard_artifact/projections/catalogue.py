"""The catalogue of files: from ``artifact.written`` to one row a file, a place, and a file of a run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from typing import Any

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard_artifact.tables import ARTIFACTS, ORIGINS, RUN_ARTIFACTS, ArtifactRow, OriginRow, RunArtifactRow
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Put, RowKey, Rows, TableSpec

CATALOGUE_VERSION = 1


class CatalogueProjection:
    """Folds the log into the catalogue."""

    name = "catalogue"
    version = CATALOGUE_VERSION
    tables: tuple[TableSpec[Any], ...] = (ARTIFACTS, ORIGINS, RUN_ARTIFACTS)
    event_types = frozenset({"runyard.artifact.written"})

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:  # noqa: ARG002 - each event carries all of its rows
        """Nothing."""
        return ()

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any]]:  # noqa: ARG002 - see reads
        """Give the rows of one written file."""
        match event.message:
            case ArtifactWritten() as written:
                return _put_written(event, written)
            case _:
                return ()


def _put_written(event: RecordedEvent, written: ArtifactWritten) -> Iterable[Put[Any]]:
    origin = written.origin
    yield Put(
        ARTIFACTS,
        ArtifactRow(
            sha256=written.sha256,
            size_bytes=written.size_bytes,
            name=origin.path,
            position=event.position,
        ),
    )
    yield Put(
        ORIGINS,
        OriginRow(
            sha256=written.sha256,
            run_id=origin.run_id,
            attempt=origin.attempt,
            path=origin.path,
            project=origin.project,
            written_at=event.envelope.occurred_at.ToDatetime(tzinfo=UTC),
            written_by=actor_name(event.envelope.actor),
            position=event.position,
        ),
    )
    if origin.run_id:
        yield Put(
            RUN_ARTIFACTS,
            RunArtifactRow(run_id=origin.run_id, sha256=written.sha256, position=event.position),
        )
