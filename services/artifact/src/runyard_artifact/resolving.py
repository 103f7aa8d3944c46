"""Finds the file that a name stands for: a whole one in the log, a prefix in the catalogue."""

from __future__ import annotations

from runyard.artifact.v1.types_pb2 import Artifact
from runyard.run.v1.types_pb2 import Input
from runyard_artifact.domain.reference import is_datum_uri, is_unresolved_uri, parse_datum_name
from runyard_artifact.domain.resolution import ResolvedFile, place_files
from runyard_artifact.handlers import Handlers
from runyard_artifact.queries import CatalogueQueries
from runyard_contracts.ids import Position
from runyard_core.errors import Ambiguous, InvalidInput, NotFound
from runyard_eventlog.moment import Moments


class Resolver:
    """Turns names into files."""

    def __init__(self, handlers: Handlers, queries: CatalogueQueries, moments: Moments) -> None:
        """Ask these."""
        self._handlers = handlers
        self._queries = queries
        self._moments = moments

    async def resolve(self, wanted: Input) -> Input:
        """Fill an input's files in, for the references that are to files of this service.

        Raises:
            NotFound: there is no such file (DATUM_NOT_FOUND).
            Ambiguous: a prefix of several files.
            InvalidInput: a reference of no known kind (BAD_URI, BAD_DATUM), or two files of one path.
        """
        resolved = []
        for uri in wanted.uris:
            if is_datum_uri(uri):
                file = await self._find_now(uri)
                resolved.append(ResolvedFile(uri, file.sha256, file.name, file.size_bytes))
            elif not is_unresolved_uri(uri):
                raise InvalidInput(
                    f"input {wanted.name!r}: {uri[:200]!r} is no reference; want datum://, http(s):// or s3://",
                    code="BAD_URI",
                )
        return place_files(wanted, resolved)

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

    async def _find_now(self, name: str) -> Artifact:
        datum = parse_datum_name(name)
        if not datum.is_whole:
            return await self.find(name, await self._moments.latest())
        file = await self._handlers.written(datum.prefix)
        if file is None:
            raise _not_found(name)
        return file


def _not_found(name: str) -> NotFound:
    return NotFound(
        f'there is no file {name}; "runyard put FILE" stores one, "runyard outputs RUN" lists those of a run',
        code="DATUM_NOT_FOUND",
        metadata={"name": name},
    )
