"""The code snapshot of a run, rebuilt file by file from its manifest; every byte is held against its hash."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from runyard.run.v1.types_pb2 import CodeRef
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.content_cache import ContentCache
from runyard_contracts.manifest import Entry, ManifestError, Mode, parse_manifest
from runyard_core.errors import RunyardError, Unavailable
from runyard_core.fan_out import fan_out

_FILES_AT_ONCE = 8
_SYMLINK_BYTES_MAX = 4096
_MODES = {Mode.FILE: 0o644, Mode.EXECUTABLE: 0o755}


async def checkout(
    artifact_client: ArtifactClient, code_ref: CodeRef, destination: Path, *, cache: ContentCache
) -> None:
    """Rebuild a tree in a folder; what was there is replaced. A run without code gets an empty folder.

    The tree is the one asked for, because the manifest's hash is the tree's and each file's hash is in it.

    Raises:
        Unavailable: ENVIRONMENT_UNAVAILABLE, with the file that could not be had and why.
    """
    try:
        await cache.with_room(lambda: _checkout(artifact_client, code_ref.tree_sha256, destination, cache))
    except (RunyardError, ManifestError) as error:
        shutil.rmtree(destination, ignore_errors=True)
        raise Unavailable(
            f"the code snapshot {code_ref.tree_sha256[:12]} cannot be rebuilt: {error}",
            code="ENVIRONMENT_UNAVAILABLE",
        ) from error


async def _checkout(
    artifact_client: ArtifactClient, tree_sha256: str, destination: Path, cache: ContentCache
) -> None:
    await asyncio.to_thread(_make_empty, destination)
    if not tree_sha256:
        return
    entries = parse_manifest(
        await cache.read(tree_sha256, lambda path: artifact_client.download(tree_sha256, path))
    )
    _make_directories(destination, entries)

    async def write_file(entry: Entry) -> None:
        await cache.copy(
            entry.sha256,
            destination / entry.path,
            lambda path: artifact_client.download(entry.sha256, path),
            mode=_MODES[entry.mode],
        )

    async def write_symlink(entry: Entry) -> None:
        target = await cache.read(entry.sha256, lambda path: artifact_client.download(entry.sha256, path))
        _write_symlink(entry.path, target, destination)

    await fan_out(_FILES_AT_ONCE, write_file, [entry for entry in entries if entry.mode in _MODES])
    # Last, so that no file is ever written through one: where they lead is the program's own business.
    symlinks = [entry for entry in entries if entry.mode is Mode.SYMLINK]
    await fan_out(_FILES_AT_ONCE, write_symlink, symlinks)


def _make_empty(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
    directory.mkdir(parents=True)


def _make_directories(destination: Path, entries: Sequence[Entry]) -> None:
    for parent in sorted({PurePosixPath(entry.path).parent for entry in entries}):
        (destination / parent).mkdir(parents=True, exist_ok=True)


def _write_symlink(path: str, target: bytes, destination: Path) -> None:
    if not target or b"\0" in target or len(target) > _SYMLINK_BYTES_MAX:
        raise ManifestError(f"symlink {path!r}: its target is not a path")
    os.symlink(target, os.fsencode(destination / path))
