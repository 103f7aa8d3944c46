"""Where the bytes of inputs come from: the yard's store, the web, other S3 stores, folders of the node."""

from __future__ import annotations

import asyncio
import hashlib
import http
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from runyard.run.v1.types_pb2 import Input, InputFile
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.blocking import BlockingPool
from runyard_agent.content_cache import ContentCache, Fetch
from runyard_agent.domain.references import (
    WITHOUT_SERVICE,
    Pattern,
    kept_path,
    path_of,
    pattern_of,
    scheme_of,
)
from runyard_agent.domain.safe_paths import is_inside, relative_path
from runyard_agent.http_connections import Request, RequestRefused
from runyard_agent.known_addresses import Known, KnownAddresses
from runyard_agent.s3_inputs import bucket_access, find_objects
from runyard_contracts import agent_controls
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, NotFound

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InputRules:
    """What the operator of the node lets inputs use."""

    shared_folders: tuple[Path, ...] = ()
    """Folders of the node that ``file://`` and mounts may name files of."""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the agent's own environment says about S3 stores."""
    nfs_exports: tuple[str, ...] = ()
    """What may be mounted for runs, read-only: "server:/path" with everything below."""


@dataclass(frozen=True, slots=True)
class Had:
    """A file that is there."""

    sha256: str
    size_bytes: int
    moved_bytes: int
    """What came from elsewhere for it: 0 when the node had it."""


class InputSources:
    """Finds and fetches files for one attempt."""

    def __init__(
        self,
        artifact_client: ArtifactClient,
        cache: ContentCache,
        rules: InputRules,
        clock: Clock,
        variables: Mapping[str, str],
        addresses: KnownAddresses | None = None,
    ) -> None:
        """Fetch through these; ``variables`` are what the run brings along, its credentials among them."""
        self._addresses = addresses or KnownAddresses()
        self._artifact_client = artifact_client
        self._cache = cache
        self._rules = rules
        self._clock = clock
        self._credentials = (variables, rules.credentials)
        self._downloads: dict[str, Request] = {}
        self._uses_cache = not agent_controls.is_true(variables.get(agent_controls.NO_DATA_CACHE))
        self._pool = BlockingPool("inputs", thread_count=1)

    async def expand(self, wanted: Input, uri: str) -> list[InputFile]:
        """List the files that a pattern means, each at the path that the input keeps.

        Raises:
            NotFound: there are none. Other ``RunyardError`` and ``OSError`` as the source says.
        """
        pattern = pattern_of(uri)
        if pattern is None:
            return [InputFile(uri=uri)]
        if scheme_of(uri) == "file":
            return await self._pool.run(None, self._expand_local, wanted, uri, pattern)
        bucket = _bucket_of(uri)
        access = bucket_access(bucket, self._credentials)
        found = await find_objects(access, pattern, self._artifact_client.transfers, self._clock)
        return [
            InputFile(
                uri=uri,
                path=kept_path(wanted, pattern, each.key),
                resolved_uri=f"s3://{bucket}/{each.key}",
                size_bytes=each.size_bytes,
            )
            for each in found
        ]

    async def expect(self, files: Sequence[InputFile]) -> None:
        """Be told what will be fetched: to ask for a small file by itself costs more than to fetch it."""
        stored = [
            file.sha256
            for file in files
            if file.sha256 and scheme_of(file.resolved_uri or file.uri) not in WITHOUT_SERVICE
        ]
        lacking = await self._cache.lacking(stored) if self._uses_cache else stored
        if len(lacking) > 1:
            self._downloads = await self._artifact_client.downloads(lacking)

    async def fetch(self, file: InputFile, destination: Path) -> Had:
        """Have a file at a path, read-only; says what its bytes are.

        Raises:
            RunyardError: it cannot be had, or has other bytes than it had.
            OSError: the disk's answer.
        """
        sha256, was_here = await self._cache.with_room(lambda: self._fetch(file, destination))
        size_bytes = (await asyncio.to_thread(destination.stat)).st_size
        return Had(sha256, size_bytes, moved_bytes=0 if was_here else size_bytes)

    def close(self) -> None:
        """Stop the thread."""
        self._pool.close()

    async def _fetch(self, file: InputFile, destination: Path) -> tuple[str, bool]:
        """Have a file at a path; gives its hash, and whether the node had it."""
        uri = file.resolved_uri or file.uri
        match scheme_of(uri):
            case "file":
                return await self._copy_local(uri, file.sha256, destination), False
            case "http" | "https":
                return await self._fetch_web(uri, Request("GET", uri), file.sha256, destination)
            case "s3":
                access = bucket_access(_bucket_of(uri), self._credentials)
                key = path_of(uri)
                request = access.request(key, self._clock)
                return await self._fetch_web(access.address(key), request, file.sha256, destination)
            case scheme if not file.sha256:
                raise NotFound(f'"{scheme}://" inputs cannot be fetched here; use datum:// or http(s)://')
            case _:
                return file.sha256, await self._fetch_stored(file.sha256, destination)

    async def _fetch_stored(self, sha256: str, destination: Path) -> bool:
        known = self._downloads.pop(sha256, None)
        return await self._have(
            sha256, destination, lambda path: self._artifact_client.download(sha256, path, known)
        )

    async def _have(self, sha256: str, destination: Path, fetch: Fetch) -> bool:
        """Have the bytes of a hash at a path, read-only: from the cache unless the run wants them fetched.

        Returns:
            True when the cache had them.
        """
        if self._uses_cache:
            return await self._cache.link(sha256, destination, fetch)
        await fetch(destination)
        await asyncio.to_thread(os.chmod, destination, 0o444)
        return False

    async def _fetch_web(
        self, address: str, request: Request, sha256: str, destination: Path
    ) -> tuple[str, bool]:
        transfers = self._artifact_client.transfers
        if sha256:
            return sha256, await self._have(
                sha256, destination, lambda path: transfers.get(request, path, sha256=sha256)
            )
        # Beside the destination: the bytes say what they are only when all are here.
        arrived = destination.parent / f".{secrets.token_hex(8)}"
        known = self._addresses.get(address) if self._uses_cache else None
        if known is not None and await self._cache.lacking([known.sha256]):
            known = None
        try:
            fetched = await transfers.get(_unless_same(request, known), arrived)
        except RequestRefused as refused:
            if known is None or refused.status != http.HTTPStatus.NOT_MODIFIED:
                raise
            return await self._fetch_web(address, request, known.sha256, destination)

        async def move(path: Path) -> None:
            arrived.replace(path)

        try:
            await self._have(fetched.sha256, destination, move)
        finally:
            arrived.unlink(missing_ok=True)
        if fetched.etag:
            await self._addresses.put(address, Known(fetched.etag, fetched.sha256))
        # Whatever the cache had: these bytes came over the network.
        return fetched.sha256, False

    async def _copy_local(self, uri: str, sha256: str, destination: Path) -> str:
        source = shared_path(f"/{path_of(uri)}", self._rules.shared_folders)
        found = await self._pool.run(None, _copy_and_hash, source, destination)
        if sha256 and found != sha256:
            raise InvalidInput(f"its bytes have SHA-256 {found}, want {sha256}")
        return found

    def _expand_local(self, wanted: Input, uri: str, pattern: Pattern) -> list[InputFile]:
        root = shared_path(f"/{pattern.root}", self._rules.shared_folders)
        names = _files_below(str(root), pattern.root)
        files = [
            InputFile(
                uri=uri,
                path=kept_path(wanted, pattern, path),
                # As ``path_of`` reads it.
                resolved_uri=f"file:///{path.replace('%', '%25')}",
                size_bytes=os.stat(f"/{path}").st_size,
            )
            # As text: a name may be bytes that are none.
            for path in (str(relative_path(name)) for name in names if pattern.means(name))
        ]
        if not files:
            raise NotFound("no file is meant by this pattern")
        return files


def shared_path(path: str, shared_folders: Sequence[Path]) -> Path:
    """Give the real path of a file or folder of the node that runs may read.

    Raises:
        InvalidInput: it is in none of the folders that the operator has named.
    """
    real = os.path.realpath(path)
    for folder in shared_folders:
        root = os.path.realpath(folder)
        if real == root or is_inside(real, root):
            return Path(real)
    raise InvalidInput(
        "this node does not share it with runs: push the file and use its datum://, or have the node's "
        "operator name its folder in RUNYARD_SHARED_FOLDERS"
    )


def _files_below(real_root: str, shown_root: str) -> list[str]:
    """Give the paths of all files below a folder, in order, as if it were where it was said to be."""
    found = []
    for directory, _, names in os.walk(real_root):
        below = os.path.relpath(directory, real_root)
        prefix = shown_root if below == "." else f"{shown_root}{below}/"
        found += [f"{prefix}{name}" for name in names if os.path.isfile(os.path.join(directory, name))]
    return sorted(found)


def _unless_same(request: Request, known: Known | None) -> Request:
    if known is None:
        return request
    return replace(request, headers={**request.headers, "If-None-Match": known.etag})


def _bucket_of(uri: str) -> str:
    return uri.partition("://")[2].partition("/")[0]


def _copy_and_hash(source: Path, destination: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as reader, destination.open("wb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    os.chmod(destination, 0o444)
    return digest.hexdigest()
