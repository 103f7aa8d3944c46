"""Files of the user: put one into the yard, get one out of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runyard.artifact.v1.artifact_service_pb2 import (
    BeginUploadRequest,
    CommitUploadRequest,
    CommitUploadResponse,
    GetArtifactRequest,
    GetDownloadRequest,
)
from runyard.artifact.v1.types_pb2 import Artifact, Origin, UploadPart
from runyard_client.client import Client
from runyard_client.errors import ClientError, LocalError
from runyard_client.hashing import in_thread, sha256_of_file
from runyard_client.store import TRANSFER_COUNT_MAX, FilePart, Progress, Store, no_progress
from runyard_contracts.ids import is_sha256, uuid7
from runyard_core.fan_out import fan_out

# The service looks at every byte of a large upload before it says yes.
_COMMIT_DEADLINE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine, hashed."""

    path: Path
    """Where it is."""
    sha256: str
    """Hash of its bytes."""
    size_bytes: int
    """Their number."""


def hash_file(path: Path, on_bytes: Progress = no_progress) -> LocalFile:
    """Hash a file; ``on_bytes`` is called with the number of bytes just read.

    Raises:
        LocalError: ``FILE_UNREADABLE``.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return LocalFile(path, sha256_of_file(file, on_bytes), file.tell())
    except OSError as error:
        raise LocalError("FILE_UNREADABLE", f"{path}: {error.strerror}") from None


async def upload_file(
    client: Client,
    path: Path,
    *,
    name: str = "",
    project: str = "",
    on_hashed: Progress = no_progress,
    on_bytes: Progress = no_progress,
) -> CommitUploadResponse:
    """Put a file into the yard. Bytes that it has already are not sent again.

    Args:
        client: the yard.
        path: the file.
        name: what to call it; its own name by default.
        project: the project it belongs to.
        on_hashed: called, from another thread, with the number of bytes just hashed, before any is sent.
        on_bytes: called, from other threads, with the number of bytes just sent.

    Raises:
        LocalError: the file cannot be read, or changes meanwhile.
        ClientError: the yard or the store refused.
        Unreachable: either does not answer.
    """
    file = await in_thread(partial(hash_file, path), on_hashed)
    origin = Origin(path=name or path.name, project=project)
    begun = await client.artifacts.BeginUpload(
        BeginUploadRequest(request_id=uuid7(), sha256=file.sha256, size_bytes=file.size_bytes, origin=origin)
    )
    etags: list[str] = []
    if begun.already_stored:
        on_bytes(file.size_bytes)
    else:
        with Store(client.context.gate) as store:

            async def put(part: UploadPart) -> str:
                stretch = FilePart(path, part.offset_bytes, part.size_bytes)
                return await store.put(part.request, stretch, on_bytes)

            sent = await fan_out(TRANSFER_COUNT_MAX, put, begun.parts)
        etags = sent if begun.upload_id else []
    return await client.artifacts.CommitUpload(
        CommitUploadRequest(
            request_id=uuid7(),
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            origin=origin,
            upload_id=begun.upload_id,
            part_etags=etags,
        ),
        timeout=_COMMIT_DEADLINE_SECONDS,
    )


async def find_artifact(client: Client, name: str) -> Artifact:
    """Look a file of the yard up by SHA-256, a prefix of at least 8 digits, or ``datum://`` reference.

    A whole SHA-256 finds blobs too (files, manifests and patches of code), which have no name or origin.

    Raises:
        ClientError: there is none, or the prefix names several.
    """
    try:
        return (await client.artifacts.GetArtifact(GetArtifactRequest(name=name))).artifact
    except ClientError as error:
        sha256 = name.removeprefix("datum://")
        if error.code != "NOT_FOUND" or not is_sha256(sha256):
            raise
        blob = await client.artifacts.GetDownload(GetDownloadRequest(sha256=sha256))
        return Artifact(sha256=sha256, size_bytes=blob.size_bytes)


async def download_file(
    client: Client, sha256: str, target: Path, *, on_bytes: Progress = no_progress
) -> int:
    """Get the bytes of a blob or artifact into a file, which appears only when their hash is right.

    Args:
        client: the yard.
        sha256: the whole hash.
        target: the file to write; its directory must exist.
        on_bytes: called, from another thread, with the number of bytes just received.

    Returns:
        The number of bytes.

    Raises:
        LocalError: the directory does not exist or cannot be written.
        ClientError: the yard or the store refused, or sent other bytes.
        Unreachable: either does not answer.
    """
    if not target.parent.is_dir():
        raise LocalError("FILE_UNREADABLE", f"{target.parent}: no such directory; make it first")
    found = await client.artifacts.GetDownload(GetDownloadRequest(sha256=sha256))
    with Store(client.context.gate) as store:
        return await store.get(found.request, target, sha256=sha256, on_bytes=on_bytes)
