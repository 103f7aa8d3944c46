"""Finds the file that a name stands for: a whole one in the log, a prefix in the catalogue."""

from __future__ import annotations

from dataclasses import dataclass

from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Artifact
from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.run.v1.types_pb2 import Input
from runyard_artifact.domain.catalogue import name_in
from runyard_artifact.domain.dataset import files_of
from runyard_artifact.domain.model import version_of
from runyard_artifact.domain.naming import (
    DATASET_SCHEME,
    MODEL_SCHEME,
    check_label,
    check_project,
    parse_dataset_version,
    parse_model,
)
from runyard_artifact.domain.reference import (
    DATUM_SCHEME,
    is_datum_uri,
    is_unresolved_uri,
    parse_datum_name,
)
from runyard_artifact.domain.resolution import ResolvedFile, place_files
from runyard_artifact.handlers import Handlers
from runyard_artifact.queries import CatalogueQueries
from runyard_artifact.registry_handlers import RegistryHandlers
from runyard_artifact.registry_queries import RegistryQueries
from runyard_contracts.ids import Position
from runyard_core.errors import Ambiguous, InvalidInput, NotFound
from runyard_eventlog.moment import Moments


@dataclass(frozen=True, slots=True)
class Registry:
    """The names that stand for files."""

    handlers: RegistryHandlers
    queries: RegistryQueries
    moments: Moments
    """Of the registry's own read model."""


class Resolver:
    """Turns names into files."""

    def __init__(
        self,
        handlers: Handlers,
        queries: CatalogueQueries,
        moments: Moments,
        registry: Registry,
    ) -> None:
        """Ask these."""
        self._handlers = handlers
        self._queries = queries
        self._moments = moments
        self._registry = registry

    async def resolve(self, wanted: Input, project: str, at: Position | None = None) -> Input:
        """Fill an input's files in, for the references that are to files of this service.

        Args:
            wanted: the input.
            project: whose names are meant.
            at: what the names stood for then; None for now.

        Raises:
            NotFound: there is no such file (DATUM_NOT_FOUND), dataset or model, or version of one.
            Ambiguous: a prefix of several files.
            InvalidInput: a reference of no known kind (BAD_URI, BAD_DATUM, BAD_NAME), or a name without a
                project (BAD_PROJECT).
        """
        resolved: list[ResolvedFile] = []
        for uri in wanted.uris:
            if is_datum_uri(uri):
                resolved.append(await self._datum(uri, project, at))
            elif uri.startswith(DATASET_SCHEME):
                resolved += await self._dataset_files(uri, project, at)
            elif uri.startswith(MODEL_SCHEME):
                resolved += await self._model_files(uri, project, at)
            elif not is_unresolved_uri(uri):
                raise InvalidInput(
                    f"input {wanted.name!r}: {uri[:200]!r} is no reference; want datum://, dataset://, "
                    "model://, http(s):// or s3://",
                    code="BAD_URI",
                )
        placed = place_files(wanted, resolved)
        await self._add_properties(placed, at)
        return placed

    async def described(self, name: str, at: Position) -> Artifact:
        """Give a file as it was at a position, with what runs had said of it.

        Raises:
            NotFound, Ambiguous, InvalidInput: as ``resolve``.
        """
        file = await self.find(name, at)
        await self._registry.moments.shown(ReadOptions(as_of=AsOf(position=at)))
        label = (await self._registry.queries.labels([file.sha256], at)).get(file.sha256)
        if label is not None:
            file.tags.extend(label.tags)
            file.properties.CopyFrom(label.properties)
        return file

    async def find(self, name: str, at: Position) -> Artifact:
        """Give a file as the catalogue had it at a position.

        Raises:
            NotFound, Ambiguous, InvalidInput: as ``resolve``.
        """
        prefix = parse_datum_name(name).prefix
        found = await self._queries.find(prefix, at)
        if not found:
            raise _not_found(name)
        if len(found) > 1:
            some = ", ".join(file.sha256[:16] for file in found)
            raise Ambiguous(f"{name} names several files: {some} ...; give more digits")
        return found[0]

    async def _datum(self, uri: str, project: str, at: Position | None) -> ResolvedFile:
        try:
            file, resolved_uri = await self._file(uri, at), ""
        except (InvalidInput, NotFound) as error:
            sha256 = await self._aliased(uri, project, at)
            if not sha256 and project and isinstance(error, InvalidInput):
                raise InvalidInput(
                    f"{uri!r} names no file: project {project} has no such alias, and it is not "
                    f"{DATUM_SCHEME} with a SHA-256 or its first 8 digits or more",
                    code=error.code,
                ) from None
            if not sha256:
                raise
            resolved_uri = f"{DATUM_SCHEME}{sha256}"
            file = await self._file(resolved_uri, at)
        return ResolvedFile(uri, file.sha256, name_in(file, project), file.size_bytes, resolved_uri)

    async def _aliased(self, uri: str, project: str, at: Position | None) -> str:
        alias = check_label(uri.removeprefix(DATUM_SCHEME), "alias")
        return await self._registry.handlers.alias(project, alias, at) if project else ""

    async def _dataset_files(self, uri: str, project: str, at: Position | None) -> list[ResolvedFile]:
        name = parse_dataset_version(uri)
        state = await self._registry.handlers.dataset(check_project(project), name.name, at)
        version, files = files_of(state, name.version, uri)
        resolved_uri = f"{DATASET_SCHEME}{name.name}/{version}"
        return [_of_version(uri, file, resolved_uri) for file in files]

    async def _model_files(self, uri: str, project: str, at: Position | None) -> list[ResolvedFile]:
        name = parse_model(uri)
        registered = version_of(
            await self._registry.handlers.model(check_project(project), name.name, at), name.version, uri
        )
        resolved_uri = f"{MODEL_SCHEME}{name.name}/{registered.version}"
        return [_of_version(uri, file, resolved_uri) for file in registered.files]

    async def _add_properties(self, placed: Input, at: Position | None) -> None:
        if not placed.files:
            return
        moments = self._registry.moments
        shown = await (
            moments.latest() if at is None else moments.shown(ReadOptions(as_of=AsOf(position=at)))
        )
        labels = await self._registry.queries.labels((file.sha256 for file in placed.files), shown)
        for file in placed.files:
            if file.sha256 in labels:
                file.properties.CopyFrom(labels[file.sha256].properties)

    async def _file(self, name: str, at: Position | None) -> Artifact:
        if at is not None:
            return await self.find(name, at)
        datum = parse_datum_name(name)
        if not datum.is_whole:
            return await self.find(name, await self._moments.latest())
        file = await self._handlers.written(datum.prefix)
        if file is None:
            raise _not_found(name)
        return file


def _of_version(uri: str, file: VersionFile, resolved_uri: str) -> ResolvedFile:
    return ResolvedFile(
        uri, file.sha256, file.path, file.size_bytes, resolved_uri if resolved_uri != uri else ""
    )


def _not_found(name: str) -> NotFound:
    return NotFound(
        f'there is no file {name}; "runyard put FILE" stores one, "runyard outputs RUN" lists those of a run',
        code="DATUM_NOT_FOUND",
        metadata={"name": name},
    )
