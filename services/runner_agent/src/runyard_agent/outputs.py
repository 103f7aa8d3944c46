"""The files of an outputs folder, stored one by one; a hostile folder gives only its own files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.below import open_below, walk_below
from runyard_agent.blocking import BlockingPool
from runyard_agent.domain.redaction import Redaction
from runyard_agent.domain.safe_paths import is_inside, relative_path
from runyard_core.errors import InvalidInput, Unavailable

CONTAINER_OUTPUTS = "/valohai/outputs"
"""What a program in a container or a private view calls its outputs folder."""

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


class PathVersions:
    """How often the bytes of a path became others, as far as they were stored while the program ran."""

    def __init__(self) -> None:
        """Begin with none."""
        self._last: dict[str, tuple[str, int]] = {}

    def before(self, path: str, sha256: str) -> int:
        """Count the versions of a path before the one that has these bytes and is the newest."""
        last_sha256, count = self._last.get(path, ("", -1))
        return count if sha256 == last_sha256 else count + 1

    def add(self, path: str, sha256: str) -> None:
        """Take in what was stored last."""
        self._last[path] = (sha256, self.before(path, sha256))


@dataclass(frozen=True, slots=True)
class OutputsOf:
    """Whose outputs they are, and where they go."""

    artifact_client: ArtifactClient
    folder: Path
    origin: Origin
    """Run, attempt and project; its path is empty."""
    live_file: Path
    """What was stored while the program ran (see ``live_outputs``)."""
    tell: Tell = lambda _: None
    """Gets a sentence for whatever is skipped, refused or fails."""
    redaction: Redaction = field(default_factory=Redaction)
    """Names of files and what is said of them become events: secrets are taken out of both."""
    versions: PathVersions = field(default_factory=PathVersions)
    """By the recorded names of paths."""

    def recorded_name(self, path: PurePosixPath | str) -> str:
        """Give the path that an output is recorded under."""
        return self.redaction.of(str(path))


@contextlib.contextmanager
def opened_output(of: OutputsOf, path: PurePosixPath) -> Iterator[int]:
    """Open an output for reading.

    Raises:
        OSError: it is gone, or no file any more.
    """
    descriptor = open_below(of.folder, path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def store_output(of: OutputsOf, pool: BlockingPool, path: PurePosixPath, descriptor: int) -> OutputFile:
    """Store an open file as the output of a path.

    Raises:
        RequestRefused, Corrupt: it changed while it was sent.
        RunyardError: as the store or the service says.
    """
    sha256, size_bytes = await pool.run(None, hash_output, descriptor)
    origin = Origin()
    origin.CopyFrom(of.origin)
    origin.path = of.recorded_name(path)
    await of.artifact_client.upload(
        descriptor,
        sha256=sha256,
        size_bytes=size_bytes,
        origin=origin,
        versions_before=of.versions.before(origin.path, sha256),
    )
    return OutputFile(path=origin.path, sha256=sha256, size_bytes=size_bytes)


def hash_output(descriptor: int) -> tuple[str, int]:
    """Give SHA-256 and size of an open file."""
    digest = hashlib.sha256()
    size_bytes = 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, size_bytes):
        digest.update(chunk)
        size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes


def list_outputs(outputs_dir: Path, is_stored: Callable[[str], bool] = lambda _: False) -> Listing:
    """Walk through a folder without following a symlink.

    Args:
        outputs_dir: the folder.
        is_stored: says of a path whether its file was in it and is stored already.
    """
    listing = Listing()
    if not os.path.lexists(outputs_dir):
        return listing

    def refuse(name: str, reason: str) -> None:
        listing.refused.append(f"output folder {name!r} cannot be read: {reason}")

    root = os.path.join(os.path.realpath(outputs_dir.parent), outputs_dir.name)
    for name, mode in sorted(walk_below(Path(root), refuse)):
        try:
            path = relative_path(name)
            if stat.S_ISREG(mode):
                listing.files.append(FoundFile(path, path))
            elif stat.S_ISLNK(mode):
                _add_symlink(listing, root, path, is_stored)
            else:
                kind = _KINDS.get(stat.S_IFMT(mode), "not a file")
                listing.skipped.append(f"output {name!r} is skipped: it is {kind}")
        except OSError as error:
            # What still runs in there moved it meanwhile.
            listing.refused.append(f"output {name!r} cannot be read: {error.strerror}")
        except InvalidInput as error:
            listing.refused.append(f"output {name!r} is refused: {error}")
    return listing


def _add_symlink(listing: Listing, root: str, path: PurePosixPath, is_stored: Callable[[str], bool]) -> None:
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
    elif is_stored(os.path.relpath(real, root)):
        listing.skipped.append(
            f"output {str(path)!r} is skipped: it is a symlink to {target!r}, which is stored"
        )
    else:
        listing.refused.append(f"output {str(path)!r} is refused: it is a symlink to {target!r}, not a file")
