"""Reads the catalogue as it was at a position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from runyard.artifact.v1.types_pb2 import Artifact, ArtifactOrigin, Origin
from runyard_artifact.projections.catalogue import CATALOGUE_VERSION
from runyard_artifact.tables import ARTIFACTS, ORIGINS, RUN_ARTIFACTS
from runyard_contracts.ids import Position
from runyard_eventlog import readmodel
from runyard_eventlog.querying import query_connection
from runyard_replay.folding.files import ORIGINS_SHOWN_MAX

SCHEMA = "artifact"


@dataclass(frozen=True, slots=True)
class PageOf:
    """Which files to list, newest first."""

    limit: int
    run_id: str = ""
    """Only what this run made; empty means all files."""
    before: Position | None = None
    """Only files that were written before this position."""


class CatalogueQueries:
    """Queries on the catalogue's tables."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Read with this engine's connections."""
        self._engine = engine
        self._artifacts = readmodel.table(ARTIFACTS, CATALOGUE_VERSION, SCHEMA)
        self._origins = readmodel.table(ORIGINS, CATALOGUE_VERSION, SCHEMA)
        self._run_artifacts = readmodel.table(RUN_ARTIFACTS, CATALOGUE_VERSION, SCHEMA)

    async def find(self, prefix: str, at: Position, limit: int = 3) -> Sequence[Artifact]:
        """Give files whose SHA-256 begins so, in its order, at most ``limit``, each with all of its places.

        Raises:
            Unavailable: the database does not answer (READ_MODEL_UNREACHABLE).
        """
        files = readmodel.as_of(self._artifacts, at)
        # "g" comes after every hexadecimal digit.
        wanted = select(files).where(files.c.sha256 >= prefix, files.c.sha256 < prefix + "g")
        return await self._read(wanted.order_by(files.c.sha256).limit(limit), at)

    async def page(self, page: PageOf, at: Position) -> Sequence[Artifact]:
        """Give one page of files, newest first, each with the newest ``ORIGINS_SHOWN_MAX`` of its places.

        Of a run it gives them as that run made them, with all of its places and none elsewhere.

        Raises:
            Unavailable: the database does not answer (READ_MODEL_UNREACHABLE).
        """
        table = self._run_artifacts if page.run_id else self._artifacts
        files = readmodel.as_of(table, at)
        wanted = select(files)
        if page.run_id:
            wanted = wanted.where(files.c.run_id == page.run_id)
        if page.before is not None:
            wanted = wanted.where(files.c.position < page.before)
        wanted = wanted.order_by(files.c.position.desc()).limit(page.limit)
        if page.run_id:
            return await self._read_of_run(wanted, page.run_id, at)
        return await self._read(wanted, at, ORIGINS_SHOWN_MAX)

    async def _read(
        self, wanted: Select[tuple[object, ...]], at: Position, origins_max: int | None = None
    ) -> Sequence[Artifact]:
        origins = readmodel.as_of(self._origins, at)
        async with query_connection(self._engine) as connection:
            rows = (await connection.execute(wanted)).all()
            found = {
                row.sha256: Artifact(
                    sha256=row.sha256, size_bytes=row.size_bytes, name=row.name, position=row.position
                )
                for row in rows
            }
            places = select(origins).where(origins.c.sha256.in_(list(found)))
            if origins_max is not None:
                newest_first = func.row_number().over(
                    partition_by=origins.c.sha256, order_by=origins.c.position.desc()
                )
                places_by_age = places.add_columns(newest_first.label("age")).subquery()
                places = select(places_by_age).where(places_by_age.c.age <= origins_max)
            for row in await connection.execute(places.order_by("position")):
                found[row.sha256].origins.append(_origin(row))
        return list(found.values())

    async def _read_of_run(
        self, wanted: Select[tuple[object, ...]], run_id: str, at: Position
    ) -> Sequence[Artifact]:
        files = readmodel.as_of(self._artifacts, at)
        origins = readmodel.as_of(self._origins, at)
        async with query_connection(self._engine) as connection:
            rows = (await connection.execute(wanted)).all()
            found = {row.sha256: Artifact(sha256=row.sha256, position=row.position) for row in rows}
            sizes = select(files.c.sha256, files.c.size_bytes).where(files.c.sha256.in_(list(found)))
            for row in await connection.execute(sizes):
                found[row.sha256].size_bytes = row.size_bytes
            places = select(origins).where(origins.c.sha256.in_(list(found)), origins.c.run_id == run_id)
            for row in await connection.execute(places.order_by(origins.c.position)):
                found[row.sha256].name = row.path
                found[row.sha256].origins.append(_origin(row))
        return list(found.values())


def _origin(row: Row[*tuple[Any, ...]]) -> ArtifactOrigin:
    origin = ArtifactOrigin(
        origin=Origin(path=row.path, run_id=row.run_id, attempt=row.attempt, project=row.project),
        written_by=row.written_by,
    )
    origin.written_at.FromDatetime(row.written_at)
    return origin
