"""The code of a run, written back: the exact files of a tree, each held against its hash."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from runyard.artifact.v1.artifact_service_pb2 import GetDownloadRequest
from runyard_client.client import Client
from runyard_client.errors import ClientError, LocalError
from runyard_client.store import TRANSFER_COUNT_MAX, Store
from runyard_contracts.manifest import Entry, ManifestError, Mode, parse_manifest
from runyard_core.fan_out import fan_out

_MODES = {Mode.FILE: 0o644, Mode.EXECUTABLE: 0o755}


async def read_tree(client: Client, tree_sha256: str) -> tuple[Entry, ...]:
    """Give the files of a tree, sorted by path.

    Raises:
        ClientError: the yard does not have it, or what it has is no tree (``BAD_MANIFEST``).
        Unreachable: yard or store does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="runyard-code-") as scratch:
        try:
            return parse_manifest(await _Fetching(client, Path(scratch)).content(tree_sha256))
        except ManifestError as error:
            raise ClientError("DATA_LOSS", "BAD_MANIFEST", f"code {tree_sha256[:12]}: {error}") from None


async def write_tree(client: Client, tree_sha256: str, directory: Path) -> tuple[Entry, ...]:
    """Write the files of a tree into a new or empty folder, with executable bits and symlinks.

    Raises:
        LocalError: ``FOLDER_NOT_EMPTY``, ``FILE_UNREADABLE``.
        ClientError: the yard does not have it, or not all of it.
        Unreachable: yard or store does not answer.
    """
    _make_empty(directory)
    entries = await read_tree(client, tree_sha256)
    with tempfile.TemporaryDirectory(prefix="runyard-code-") as scratch:
        fetching = _Fetching(client, Path(scratch))
        files = [entry for entry in entries if entry.mode in _MODES]
        await fan_out(TRANSFER_COUNT_MAX, lambda entry: _write_file(fetching, entry, directory), files)
        # Last, so that no file is ever written through one.
        for entry in entries:
            if entry.mode is Mode.SYMLINK:
                os.symlink(await fetching.content(entry.sha256), os.fsencode(directory / entry.path))
    return entries


class _Fetching:
    """Bytes of the store."""

    def __init__(self, client: Client, scratch: Path) -> None:
        self._client = client
        self._scratch = scratch

    async def file(self, sha256: str, target: Path) -> None:
        found = await self._client.artifacts.GetDownload(GetDownloadRequest(sha256=sha256))
        with Store(self._client.context.gate, transfer_count_max=1) as store:
            await store.get(found.request, target, sha256=sha256)

    async def content(self, sha256: str) -> bytes:
        kept = self._scratch / sha256
        if not kept.exists():
            await self.file(sha256, kept)
        return await asyncio.to_thread(kept.read_bytes)


async def _write_file(fetching: _Fetching, entry: Entry, directory: Path) -> None:
    target = directory / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    await fetching.file(entry.sha256, target)
    target.chmod(_MODES[entry.mode])


def _make_empty(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise LocalError("FOLDER_NOT_EMPTY", f"{directory} is not empty: name a new folder")
    except OSError as error:
        raise LocalError("FILE_UNREADABLE", f"{directory}: {error.strerror}") from None
