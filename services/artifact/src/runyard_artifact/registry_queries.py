"""Reads the registry as it was at a position."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct
from sqlalchemy import Row, Subquery, select
from sqlalchemy.ext.asyncio import AsyncEngine

from runyard.artifact.v1.registry_types_pb2 import Dataset, DatasetVersion, Model, ModelVersion
from runyard.artifact.v1.types_pb2 import Origin
from runyard_artifact import tables
from runyard_artifact.projections.registry import REGISTRY_VERSION
from runyard_artifact.queries import SCHEMA
from runyard_contracts.ids import Position
from runyard_core.projection import TableSpec
from runyard_eventlog import readmodel
from runyard_eventlog.querying import query_connection

_FILES_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Labels:
    """What was said of a file."""

    tags: Sequence[str]
    properties: Struct


class RegistryQueries:
    """Queries on the registry's tables. All raise ``Unavailable`` (READ_MODEL_UNREACHABLE)."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Read with this engine's connections."""
        self._engine = engine

    async def labels(self, sha256s: Iterable[str], at: Position) -> Mapping[str, Labels]:
        """Give what was said of files, by SHA-256; nothing of those of which nothing was said."""
        asked = list(dict.fromkeys(sha256s))
        labels = _as_of(tables.LABELS, at)
        found: dict[str, Labels] = {}
        async with query_connection(self._engine) as connection:
            for start in range(0, len(asked), _FILES_AT_ONCE):
                some = select(labels).where(labels.c.sha256.in_(asked[start : start + _FILES_AT_ONCE]))
                for row in await connection.execute(some):
                    found[row.sha256] = Labels(tuple(row.tags), Struct())
                    found[row.sha256].properties.update(json.loads(row.properties_json))
        return found

    async def datasets(self, project: str, after: str, limit: int, at: Position) -> Sequence[Dataset]:
        """List datasets whose names come after one, in the order of their names."""
        found = []
        for row in await self._page(tables.DATASETS, project, after, limit, at):
            listed = Dataset(
                project=row.project,
                name=row.name,
                version_count=row.version_count,
                newest_version=row.newest_version,
            )
            listed.newest_at.FromDatetime(row.newest_at)
            found.append(listed)
        return found

    async def models(self, project: str, after: str, limit: int, at: Position) -> Sequence[Model]:
        """List models whose names come after one, in the order of their names."""
        found = []
        for row in await self._page(tables.MODELS, project, after, limit, at):
            listed = Model(
                project=row.project,
                name=row.name,
                version_count=row.newest_version,
                newest_version=row.newest_version,
            )
            listed.newest_at.FromDatetime(row.newest_at)
            found.append(listed)
        return found

    async def dataset_versions(
        self, project: str, dataset: str, before: Position | None, limit: int, at: Position, version: str = ""
    ) -> Sequence[tuple[DatasetVersion, Position]]:
        """List versions of a dataset, newest first, each with its place, which the next page comes before."""
        versions = _as_of(tables.DATASET_VERSIONS, at)
        aliases = _as_of(tables.DATASET_ALIASES, at)
        wanted = select(versions).where(versions.c.project == project, versions.c.dataset == dataset)
        if before is not None:
            wanted = wanted.where(versions.c.position < before)
        if version:
            wanted = wanted.where(versions.c.version == version)
        names = select(aliases).where(aliases.c.project == project, aliases.c.dataset == dataset)
        async with query_connection(self._engine) as connection:
            rows = (await connection.execute(wanted.order_by(versions.c.position.desc()).limit(limit))).all()
            standing: dict[str, list[str]] = {}
            for row in await connection.execute(names.order_by(aliases.c.alias)):
                standing.setdefault(row.version, []).append(row.alias)
        return [(_dataset_version(row, standing.get(row.version, ())), row.position) for row in rows]

    async def model_versions(
        self, project: str, model: str, before: int | None, limit: int, at: Position
    ) -> Sequence[ModelVersion]:
        """List versions of a model below a number, newest first."""
        versions = _as_of(tables.MODEL_VERSIONS, at)
        wanted = select(versions).where(versions.c.project == project, versions.c.model == model)
        if before is not None:
            wanted = wanted.where(versions.c.version < before)
        async with query_connection(self._engine) as connection:
            rows = await connection.execute(wanted.order_by(versions.c.version.desc()).limit(limit))
            return [_model_version(row) for row in rows]

    async def _page(
        self, spec: TableSpec[Any], project: str, after: str, limit: int, at: Position
    ) -> Sequence[Row[Any]]:
        rows = _as_of(spec, at)
        wanted = select(rows).where(rows.c.project == project, rows.c.name > after)
        async with query_connection(self._engine) as connection:
            return (await connection.execute(wanted.order_by(rows.c.name).limit(limit))).all()


def _as_of(spec: TableSpec[Any], at: Position) -> Subquery:
    return readmodel.as_of(readmodel.table(spec, REGISTRY_VERSION, SCHEMA), at)


def _dataset_version(row: Row[Any], aliases: Sequence[str]) -> DatasetVersion:
    version = DatasetVersion(
        project=row.project,
        dataset=row.dataset,
        version=row.version,
        file_count=row.file_count,
        size_bytes=row.size_bytes,
        aliases=aliases,
        origin=Origin(run_id=row.run_id, attempt=row.attempt, project=row.project),
        created_by=row.created_by,
        from_version=row.from_version,
    )
    version.created_at.FromDatetime(row.created_at)
    return version


def _model_version(row: Row[Any]) -> ModelVersion:
    version = ModelVersion(
        project=row.project,
        model=row.model,
        version=row.version,
        file_count=row.file_count,
        size_bytes=row.size_bytes,
        tags=row.tags,
        release_note=row.release_note,
        origin=Origin(run_id=row.run_id, attempt=row.attempt, project=row.project),
        registered_by=row.registered_by,
    )
    version.registered_at.FromDatetime(row.registered_at)
    return version
