"""Code of a run, written back into a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from runyard.artifact.v1.artifact_service_pb2 import GetDownloadRequest, GetDownloadResponse
from runyard_client import Client, ClientError
from runyard_client.checkout import read_tree, write_tree
from runyard_client.errors import LocalError
from runyard_contracts.ids import sha256_of
from runyard_contracts.manifest import Entry, Mode, format_manifest

from .test_store import Bucket, bucket

__all__ = ["bucket"]

FILES: Mapping[str, tuple[Mode, bytes]] = {
    "deep/er/data": (Mode.FILE, b"data"),
    "out": (Mode.SYMLINK, b"/etc/passwd"),
    "run.sh": (Mode.EXECUTABLE, b"#!/bin/sh\n"),
    "same": (Mode.FILE, b"data"),
}


def of(bucket: Bucket) -> Client:
    """Give a client whose artifact service has presigned requests to the bucket, and nothing else."""

    async def get_download(request: GetDownloadRequest) -> GetDownloadResponse:
        return GetDownloadResponse(request=bucket.request("GET", f"/{request.sha256}"))

    artifacts = SimpleNamespace(GetDownload=get_download)
    return cast("Client", SimpleNamespace(artifacts=artifacts, context=SimpleNamespace(gate=None)))


def put(bucket: Bucket, content: bytes) -> str:
    sha256 = sha256_of(content)
    bucket.objects[f"/{sha256}"] = content
    return sha256


def put_tree(bucket: Bucket) -> str:
    return put(
        bucket,
        format_manifest(
            Entry(path, mode, sha256_of(content), len(content))
            for path, (mode, content) in FILES.items()
            if put(bucket, content)
        ),
    )


async def test_files_are_written_with_their_modes_and_links(bucket: Bucket, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    entries = await write_tree(of(bucket), put_tree(bucket), folder)
    assert [entry.path for entry in entries] == list(FILES)
    for path, (mode, content) in FILES.items():
        if mode is Mode.SYMLINK:
            assert os.readlink(folder / path) == content.decode()
        else:
            assert (folder / path).read_bytes() == content
            assert os.access(folder / path, os.X_OK) is (mode is Mode.EXECUTABLE)
    with pytest.raises(LocalError, match="is not empty: name a new folder"):
        await write_tree(of(bucket), put_tree(bucket), folder)


async def test_other_bytes_than_those_of_the_tree_are_not_written(bucket: Bucket, tmp_path: Path) -> None:
    tree = put_tree(bucket)
    bucket.objects[f"/{sha256_of(b'data')}"] = b"other"
    with pytest.raises(ClientError) as refused:
        await write_tree(of(bucket), tree, tmp_path)
    assert refused.value.reason == "CHECKSUM_MISMATCH"
    assert not (tmp_path / "same").exists()


async def test_what_is_no_manifest_is_no_tree(bucket: Bucket) -> None:
    with pytest.raises(ClientError) as refused:
        await read_tree(of(bucket), put(bucket, b"100644 ../outside\n"))
    assert refused.value.reason == "BAD_MANIFEST"
