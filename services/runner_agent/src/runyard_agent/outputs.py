"""What a run left in its outputs folder, stored file by file; a hostile folder gives only its own files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.blocking import BlockingPool
from runyard_agent.domain.safe_paths import is_inside, relative_path
from runyard_agent.fan_out import fan_out
from runyard_agent.http_connections import RequestRefused
from runyard_core.errors import Corrupt, InvalidInput, RunyardError, Unavailable

CONTAINER_OUTPUTS = "/valohai/outputs"
"""What a program in a container or a private view calls its outputs folder."""

_FILES_AT_ONCE = 4
_CHUNK_BYTES = 1 << 20
_REASONS_SHOWN_MAX = 5
_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Tell = Callable[[str], None]


class OutputsIncomplete(Unavailable):
    """Some outputs could not be stored. ``reasons`` has a sentence for each, ``stored`` are the others."""

    default_code = "OUTPUT_UNAVAILABLE"

    def __init__(self, reasons: list[str], stored: list[OutputFile]) -> None:
        """Show the first reasons in the message."""
        hidden_count = len(reasons) - _REASONS_SHOWN_MAX
        more = [f"and {hidden_count} more"] if hidden_count > 0 else []
        super().__init__("; ".join(reasons[:_REASONS_SHOWN_MAX] + more))
        self.reasons = reasons
        self.stored = stored


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to store."""

    path: PurePosixPath
    """Below the outputs folder: the name to record."""
    real_path: PurePosixPath
    """Below the outputs folder, without symlinks: where its bytes are."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What an outputs folder holds."""

    files: list[FoundFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """What has no bytes of its own (sockets, pipes, links to folders), a sentence each."""
    refused: list[str] = field(default_factory=list)
    """What somebody may miss: it leads out of the folder or cannot be recorded; a sentence each."""


async def collect(
    artifact_client: ArtifactClient,
    outputs_dir: Path,
    run_id: str,
    attempt: int,
    project: str,
    *,
    tell: Tell = lambda _: None,
) -> list[OutputFile]:
    """Store every file of an outputs folder; gives them by path. Call it again after a crash of the agent.

    A symlink to a file inside the folder is stored as that file; nothing outside is ever read. ``tell``
    gets a sentence for whatever is skipped, refused or fails. A missing folder has no files.

    Raises:
        OutputsIncomplete: OUTPUT_UNAVAILABLE, after everything that can be stored has been.
    """
    pool = BlockingPool("outputs", thread_count=_FILES_AT_ONCE)
    stored: list[OutputFile] = []
    try:
        listing = await pool.run(None, list_outputs, outputs_dir)
        for sentence in (*listing.skipped, *listing.refused):
            tell(sentence)

        async def store(file: FoundFile) -> None:
            origin = Origin(path=str(file.path), run_id=run_id, attempt=attempt, project=project)
            try:
                stored.append(await _store(artifact_client, pool, outputs_dir, file, origin))
            except (RunyardError, OSError) as error:
                sentence = f"output {str(file.path)!r} is not stored: {error}"
                tell(sentence)
                listing.refused.append(sentence)

        await fan_out(_FILES_AT_ONCE, store, listing.files)
    finally:
        pool.close()
    stored.sort(key=lambda file: file.path)
    if listing.refused:
        raise OutputsIncomplete(listing.refused, stored)
    return stored


def list_outputs(outputs_dir: Path) -> Listing:
    """Walk through a folder without following a symlink."""
    listing = Listing()
    root = os.path.realpath(outputs_dir)
    if not os.path.isdir(root):
        return listing
    for name, mode in sorted(_walk(root, listing.refused)):
        try:
            path = relative_path(name)
            if stat.S_ISREG(mode):
                listing.files.append(FoundFile(path, path))
            elif stat.S_ISLNK(mode):
                _add_symlink(listing, root, path)
            else:
                kind = _KINDS.get(stat.S_IFMT(mode), "not a file")
                listing.skipped.append(f"output {name!r} is skipped: it is {kind}")
        except InvalidInput as error:
            listing.refused.append(f"output {name!r} is refused: {error}")
    return listing


def open_below(root: Path, path: PurePosixPath) -> int:
    """Open a regular file below a folder for reading, whatever else changes names there meanwhile.

    Raises:
        OSError: it is gone, or a symlink or something else has taken its place.
    """
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path.parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            child = os.open(part, flags, dir_fd=directory)
            os.close(directory)
            directory = child
        # Not blocking: opening a pipe that has taken the file's place would wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path.name, flags, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file any more")
    return descriptor


async def _store(
    artifact_client: ArtifactClient, pool: BlockingPool, outputs_dir: Path, file: FoundFile, origin: Origin
) -> OutputFile:
    for is_last in (False, True):
        descriptor = await pool.run(None, open_below, outputs_dir, file.real_path)
        try:
            sha256, size_bytes = await pool.run(None, _hash, descriptor)
            await artifact_client.upload(descriptor, sha256=sha256, size_bytes=size_bytes, origin=origin)
            return OutputFile(path=origin.path, sha256=sha256, size_bytes=size_bytes)
        except (RequestRefused, Corrupt):
            # The store holds the bytes against the hash; something may still have been writing. Once more.
            if is_last:
                raise
        finally:
            os.close(descriptor)
    raise AssertionError("unreachable")


def _walk(root: str, refused: list[str]) -> Iterator[tuple[str, int]]:
    """Give path below the root and mode of everything but folders."""

    def refuse(error: OSError) -> None:
        refused.append(f"output folder {error.filename!r} cannot be read: {error.strerror}")

    for directory, folder_names, file_names, descriptor in os.fwalk(root, onerror=refuse):
        for name in (*folder_names, *file_names):
            try:
                mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(mode):
                yield os.path.relpath(os.path.join(directory, name), root), mode


def _add_symlink(listing: Listing, root: str, path: PurePosixPath) -> None:
    link = os.path.join(root, path)
    target = os.readlink(link)
    if target.startswith(f"{CONTAINER_OUTPUTS}/"):
        real = os.path.realpath(os.path.join(root, target.removeprefix(f"{CONTAINER_OUTPUTS}/")))
    else:
        real = os.path.realpath(link)
    if not is_inside(real, root):
        listing.refused.append(
            f"output {str(path)!r} is refused: it is a symlink to {target!r}, outside the outputs folder; "
            "copy the file there instead"
        )
    elif os.path.isdir(real):
        listing.skipped.append(f"output {str(path)!r} is skipped: it is a symlink to a folder of the outputs")
    elif os.path.isfile(real):
        listing.files.append(FoundFile(path, relative_path(os.path.relpath(real, root))))
    else:
        listing.refused.append(f"output {str(path)!r} is refused: it is a symlink to {target!r}, not a file")


def _hash(descriptor: int) -> tuple[str, int]:
    digest = hashlib.sha256()
    size_bytes = 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, size_bytes):
        digest.update(chunk)
        size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes
