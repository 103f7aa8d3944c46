"""The input files of a run: fetched, held against their hashes, and laid out as the run contract says."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from runyard.run.v1.types_pb2 import Input, InputFile
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.blocking import BlockingPool
from runyard_agent.content_cache import ContentCache
from runyard_agent.fan_out import fan_out
from runyard_agent.http_connections import Request
from runyard_agent.safe_paths import relative_path
from runyard_core.errors import InvalidInput, NotFound, RunyardError, Unavailable

_FILES_AT_ONCE = 4
_CHUNK_BYTES = 1 << 20

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class InputRules:
    """What the operator of the node allows."""

    allows_file_uris: bool = False
    """Whether ``file://`` may name files of the node itself."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One file to fetch."""

    input_name: str
    uri: str
    path: PurePosixPath
    """Below the inputs folder, so with the name of the input first."""
    sha256: str
    """Empty when nobody knows it yet."""


async def fetch(
    artifact_client: ArtifactClient,
    inputs: Sequence[Input],
    inputs_dir: Path,
    *,
    cache: ContentCache,
    rules: InputRules = InputRules(),
    tell: Tell = lambda _: None,
) -> list[Input]:
    """Fetch all files of all inputs into ``inputs_dir/NAME/``; gives the inputs with what is there now.

    Of several files with one path the last one stays, as the contract says; ``tell`` gets a sentence.

    Raises:
        Unavailable: INPUT_UNAVAILABLE, naming the input and its URI.
    """
    wanted: dict[PurePosixPath, _Wanted] = {}
    for one in await _resolved(artifact_client, inputs):
        (inputs_dir / _checked_name(one.name)).mkdir(parents=True, exist_ok=True)
        for file in _files_of(one):
            if (former := wanted.pop(file.path, None)) is not None and former.uri != file.uri:
                tell(f"input {one.name}: {file.path.name} of {file.uri} replaces that of {former.uri}")
            wanted[file.path] = file
    fetcher = _Fetcher(artifact_client, cache, rules, inputs_dir)
    try:
        found = await fan_out(_FILES_AT_ONCE, fetcher.fetch, list(wanted.values()))
    finally:
        fetcher.close()
    await cache.trim()
    return [_with_files(one, wanted.values(), found) for one in inputs]


class _Fetcher:
    """Fetches one file after the other for one attempt."""

    def __init__(
        self, artifact_client: ArtifactClient, cache: ContentCache, rules: InputRules, inputs_dir: Path
    ) -> None:
        self._artifact_client = artifact_client
        self._cache = cache
        self._rules = rules
        self._inputs_dir = inputs_dir
        self._pool = BlockingPool("inputs", thread_count=1)

    async def fetch(self, wanted: _Wanted) -> InputFile:
        destination = self._inputs_dir / wanted.path
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            scheme = urlsplit(wanted.uri).scheme
            if scheme == "file":
                sha256 = await self._copy_local(wanted, destination)
            elif scheme in {"http", "https"}:
                sha256 = await self._fetch_web(wanted, destination)
            elif wanted.sha256:
                sha256 = await self._fetch_stored(wanted, destination)
            else:
                raise NotFound(f'"{scheme}://" inputs cannot be fetched here; use datum:// or http(s)://')
        except (RunyardError, OSError) as error:
            raise _unavailable(wanted.input_name, wanted.uri, error) from error
        path = PurePosixPath(*wanted.path.parts[1:])
        return InputFile(uri=wanted.uri, path=str(path), sha256=sha256, size_bytes=destination.stat().st_size)

    async def _fetch_stored(self, wanted: _Wanted, destination: Path) -> str:
        await self._cache.link(
            wanted.sha256, destination, lambda path: self._artifact_client.download(wanted.sha256, path)
        )
        return wanted.sha256

    async def _fetch_web(self, wanted: _Wanted, destination: Path) -> str:
        transfers = self._artifact_client.transfers
        request = Request("GET", wanted.uri)
        if wanted.sha256:
            await self._cache.link(
                wanted.sha256, destination, lambda path: transfers.get(request, path, sha256=wanted.sha256)
            )
            return wanted.sha256
        # Beside the destination: the bytes say what they are only when all are here.
        arrived = destination.parent / f".{secrets.token_hex(8)}"
        fetched = await transfers.get(request, arrived)

        async def move(path: Path) -> None:
            arrived.replace(path)

        try:
            await self._cache.link(fetched.sha256, destination, move)
        finally:
            arrived.unlink(missing_ok=True)
        return fetched.sha256

    async def _copy_local(self, wanted: _Wanted, destination: Path) -> str:
        if not self._rules.allows_file_uris:
            raise InvalidInput("this node does not allow file:// inputs; push the file and use its datum://")
        source = Path(unquote(urlsplit(wanted.uri).path))
        sha256 = await self._pool.run(None, _copy_and_hash, source, destination)
        if wanted.sha256 and sha256 != wanted.sha256:
            raise InvalidInput(f"its bytes have SHA-256 {sha256}, want {wanted.sha256}")
        return sha256

    def close(self) -> None:
        self._pool.close()


async def _resolved(artifact_client: ArtifactClient, inputs: Sequence[Input]) -> list[Input]:
    """Ask for the files of references to stored files that came without them."""
    resolved: list[Input] = []
    for one in inputs:
        known = {file.uri for file in one.files}
        if all(uri in known or urlsplit(uri).scheme in {"http", "https", "file"} for uri in one.uris):
            resolved.append(one)
            continue
        try:
            resolved.extend(await artifact_client.resolve_inputs([one]))
        except RunyardError as error:
            raise _unavailable(one.name, ", ".join(one.uris), error) from error
    return resolved


def _files_of(one: Input) -> list[_Wanted]:
    by_uri: dict[str, list[InputFile]] = {}
    for file in one.files:
        by_uri.setdefault(file.uri, []).append(file)
    found: list[_Wanted] = []
    for uri in one.uris or list(by_uri):
        files = by_uri.get(uri, [InputFile(uri=uri)])
        found += [_Wanted(one.name, uri, _placed(one, file), file.sha256) for file in files]
    if one.filename and len(found) > 1:
        reason = InvalidInput(f'"filename" renames one file, but there are {len(found)}')
        raise _unavailable(one.name, found[1].uri, reason)
    return found


def _placed(one: Input, file: InputFile) -> PurePosixPath:
    """Say where a file goes: by name alone, or with its folders when the input keeps them."""
    text = one.filename or file.path or unquote(urlsplit(file.uri).path).strip("/") or one.name
    try:
        path = relative_path(text)
    except RunyardError as error:
        raise _unavailable(one.name, file.uri, error) from error
    match one.keep_directories:
        case "full":
            keeps_directories = True
        case "suffix":
            # What follows the wildcard: the service has cut the path so; a plain address has none.
            keeps_directories = bool(file.path)
        case _:
            keeps_directories = bool(one.filename)
    return PurePosixPath(one.name) / (path if keeps_directories else path.name)


def _with_files(one: Input, wanted: Iterable[_Wanted], found: Sequence[InputFile]) -> Input:
    result = Input()
    result.CopyFrom(one)
    del result.files[:]
    result.files.extend(file for want, file in zip(wanted, found, strict=True) if want.input_name == one.name)
    return result


def _checked_name(name: str) -> str:
    if not name or "/" in name or name in {".", ".."} or "\0" in name:
        raise _unavailable(name, "no URI", InvalidInput("its name cannot be the name of a folder"))
    return name


def _unavailable(name: str, uri: str, error: Exception) -> Unavailable:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return Unavailable(
        f"input {name!r} ({uri}) cannot be had: {reason}",
        code="INPUT_UNAVAILABLE",
        metadata={"input": name, "uri": uri},
    )


def _copy_and_hash(source: Path, destination: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as reader, destination.open("wb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    os.chmod(destination, 0o444)
    return digest.hexdigest()
