"""The code of a run: every file of a working tree as it is now, committed or not, by content."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runyard.artifact.v1.artifact_service_pb2 import (
    BlobRef,
    FindMissingBlobsRequest,
    MissingBlob,
    RecordCodeSnapshotRequest,
)
from runyard.run.v1.types_pb2 import CodeRef
from runyard_client import git
from runyard_client.client import Client
from runyard_client.errors import LocalError
from runyard_client.hashing import sha256_of_file
from runyard_client.listing import Listing, list_tree
from runyard_client.store import TRANSFER_COUNT_MAX, FilePart, Progress, Store, no_progress
from runyard_contracts.ids import Sha256, sha256_of, uuid7
from runyard_contracts.manifest import Entry, ManifestError, Mode, check_path, format_manifest
from runyard_core.counted import count_words
from runyard_core.fan_out import fan_out

FILE_COUNT_MAX = 10_000
FILE_BYTES_MAX = 1 << 30
TREE_BYTES_MAX = 2 << 30
PATCH_SOURCE_BYTES_MAX = 100 << 20
"""Changed bytes over which no patch is made: the tree itself holds them all, the patch is for reading."""

_BLOBS_PER_CALL = 1000
_READS_MAX = 5
_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
# By its specification a pointer is smaller.
_POINTER_BYTES_MAX = 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A working tree at one moment, ready to be uploaded."""

    root: Path
    """The directory that the paths are relative to."""
    code: CodeRef
    """Its identity, and where it stands against git."""
    entries: tuple[Entry, ...]
    """Its files, sorted by path."""
    contents: Mapping[str, bytes]
    """SHA-256 -> blob, of those that are no files on disk: the manifest, the patch, targets of symlinks."""
    warnings: tuple[str, ...]
    """What was left out although nobody asked for that, one sentence each."""

    def has_file(self, path: str) -> bool:
        """Say whether a plain or executable file of this path is in the tree."""
        return any(entry.path == path and entry.mode is not Mode.SYMLINK for entry in self.entries)


def take_snapshot(root: Path, on_bytes: Progress = no_progress) -> Snapshot:
    """Read a working tree: with git what it tracks and does not ignore, otherwise all but ignored files.

    Staged, unstaged and untracked changes are part of it, as the files are on disk. ``.vhignore`` leaves
    out more. Blocks while it reads; nothing is written. ``on_bytes`` is called, from other threads, with the
    number of bytes just read.

    Raises:
        LocalError: ``NOT_A_DIRECTORY``, ``NO_FILES``, ``TOO_MANY_FILES``, ``FILE_TOO_LARGE``,
            ``TREE_TOO_LARGE``, ``BAD_PATH``, ``FILE_UNREADABLE``, ``FILE_CHANGED`` or ``GIT_FAILED``.
    """
    root = root.resolve()
    if not root.is_dir():
        raise LocalError("NOT_A_DIRECTORY", f"{root}: no such directory")
    listing = list_tree(root)
    _check_count(root, listing.paths)
    warnings: list[str] = []
    found = [each for path in listing.paths if (each := _stat(root, path, warnings)) is not None]
    if not found:
        raise LocalError("NO_FILES", f"{root}: no files to run; is everything ignored?")
    _check_size(root, found)
    contents: dict[str, bytes] = {}
    warnings += [
        f"{path} is a submodule without its files: fetch them with `git submodule update --init --recursive`"
        for path in listing.absent_submodules
    ]
    entries = _read(root, found, contents, on_bytes)
    warnings += _pointer_warnings(root, entries)
    warnings += _link_warnings(entries, contents)
    patch = _patch(root, listing, warnings)
    if patch:
        contents[sha256_of(patch)] = patch
    try:
        manifest = format_manifest(entries)
    except ManifestError as error:
        raise LocalError("BAD_PATH", f"{root}: {error}") from None
    tree = sha256_of(manifest)
    contents[tree] = manifest
    code = CodeRef(
        tree_sha256=tree,
        dirty=bool(listing.state and (listing.changed or not listing.state.commit)),
        patch_sha256=sha256_of(patch) if patch else "",
        file_count=len(entries),
        size_bytes=sum(entry.size_bytes for entry in entries),
    )
    if listing.state is not None:
        code.git_commit = listing.state.commit
        code.git_branch = listing.state.branch
        code.git_remote_url = listing.state.remote_url
        code.git_author = listing.state.author
    ordered = tuple(sorted(entries, key=lambda entry: entry.path.encode()))
    return Snapshot(root=root, code=code, entries=ordered, contents=contents, warnings=tuple(warnings))


async def upload_snapshot(client: Client, snapshot: Snapshot, *, on_bytes: Progress = no_progress) -> int:
    """Upload the blobs that the yard does not have, record the tree, and give the event's position.

    Args:
        client: the yard.
        snapshot: what ``take_snapshot`` gave.
        on_bytes: called, from other threads, with the number of bytes just sent.

    Raises:
        LocalError: ``FILE_CHANGED`` when a file is not what it was when the snapshot was taken.
        ClientError: the yard or the store refused.
        Unreachable: either does not answer.
    """
    bodies: dict[str, bytes | FilePart] = {**snapshot.contents}
    for entry in snapshot.entries:
        bodies.setdefault(entry.sha256, FilePart(snapshot.root / entry.path, 0, entry.size_bytes))
    missing = await _find_missing(client, bodies)
    with Store(client.context.gate) as store:
        await fan_out(
            TRANSFER_COUNT_MAX, lambda blob: store.put(blob.put, bodies[blob.sha256], on_bytes), missing
        )
    answer = await client.artifacts.RecordCodeSnapshot(
        RecordCodeSnapshotRequest(request_id=uuid7(), code=snapshot.code), timeout=60.0
    )
    return answer.position


def _stat(root: Path, path: str, warnings: list[str]) -> tuple[str, os.stat_result] | None:
    try:
        status = (root / path).lstat()
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except OSError as error:
        raise _unreadable(root, path, error) from None
    if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
        try:
            check_path(path)
        except ManifestError as error:
            raise LocalError("BAD_PATH", f"{root}: {error}") from None
        return path, status
    warnings.append(f"{path} is neither a file nor a symlink and was left out")
    return None


def _check_count(root: Path, paths: tuple[str, ...]) -> None:
    if len(paths) <= FILE_COUNT_MAX:
        return
    counts = Counter(path.partition("/")[0] + "/" for path in paths if "/" in path)
    most = ", ".join(f"{name} ({count_words(count, 'file')})" for name, count in counts.most_common(3))
    raise LocalError(
        "TOO_MANY_FILES",
        f"{root}: {len(paths):,} files of code, at most {FILE_COUNT_MAX:,}: "
        f"name what is no code in .vhignore, for example {most or '*.png'}",
    )


def _check_size(root: Path, found: Iterable[tuple[str, os.stat_result]]) -> None:
    by_size = sorted(((status.st_size, path) for path, status in found), reverse=True)
    size, path = by_size[0]
    if size > FILE_BYTES_MAX:
        raise LocalError(
            "FILE_TOO_LARGE",
            f"{root / path}: {size / 2**30:.1f} GiB, at most {FILE_BYTES_MAX >> 30} GiB for a file of code: "
            "name it in .vhignore, put it with `runyard put` and use it as an input",
        )
    total = sum(size for size, _ in by_size)
    if total > TREE_BYTES_MAX:
        raise LocalError(
            "TREE_TOO_LARGE",
            f"{root}: {total / 2**30:.1f} GiB of code, at most {TREE_BYTES_MAX >> 30} GiB: "
            f"name data in .vhignore, the largest is {path} ({size / 2**20:.0f} MiB)",
        )


def _read(
    root: Path, found: list[tuple[str, os.stat_result]], contents: dict[str, bytes], on_bytes: Progress
) -> list[Entry]:
    def read(each: tuple[str, os.stat_result]) -> tuple[Entry, bytes | None]:
        path, status = each
        try:
            if stat.S_ISLNK(status.st_mode):
                target = os.fsencode((root / path).readlink())
                return Entry(path, Mode.SYMLINK, sha256_of(target), len(target)), target
            sha256, size_bytes = _read_still(root / path, on_bytes)
        except OSError as error:
            raise _unreadable(root, path, error) from None
        mode = Mode.EXECUTABLE if status.st_mode & stat.S_IXUSR else Mode.FILE
        return Entry(path, mode, sha256, size_bytes), None

    with ThreadPoolExecutor(4, thread_name_prefix="hash") as threads:
        results = list(threads.map(read, found))
    contents.update({entry.sha256: target for entry, target in results if target is not None})
    return [entry for entry, _ in results]


def _read_still(file: Path, on_bytes: Progress) -> tuple[Sha256, int]:
    """Hash a file as it was at one moment: one that is written to meanwhile is read again."""
    for _ in range(_READS_MAX):
        with file.open("rb", buffering=0) as opened:
            before = os.fstat(opened.fileno())
            sha256 = sha256_of_file(opened, on_bytes)
            after = os.fstat(opened.fileno())
            if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, opened.tell()):
                return sha256, after.st_size
    raise LocalError(
        "FILE_CHANGED",
        f"{file}: is written to all the time: wait for the program that does, or name it in .vhignore",
    )


def _pointer_warnings(root: Path, entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        if entry.mode is Mode.SYMLINK or not entry.size_bytes <= _POINTER_BYTES_MAX:
            continue
        with contextlib.suppress(OSError), (root / entry.path).open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                yield f"{entry.path} is a pointer of Git LFS, not its content: fetch it with `git lfs pull`"


def _link_warnings(entries: Iterable[Entry], contents: Mapping[str, bytes]) -> Iterator[str]:
    for entry in entries:
        if entry.mode is Mode.SYMLINK:
            target = os.fsdecode(contents[entry.sha256])
            end = os.path.normpath(os.path.join(os.path.dirname(entry.path), target))
            if end.startswith("/") or end.split("/")[0] == "..":
                yield f"{entry.path} points out of the tree: in a run it leads to what is there at {target}"


def _patch(root: Path, listing: Listing, warnings: list[str]) -> bytes:
    if listing.state is None or not listing.state.commit or not listing.changed:
        return b""
    changed = [path for path in listing.changed if not (root / path).is_dir() or (root / path).is_symlink()]
    size = sum(_size_of(root / path) for path in changed)
    if size > PATCH_SOURCE_BYTES_MAX:
        warnings.append(
            f"{size / 2**20:.0f} MiB differ from the commit: no patch was made, the files are all recorded"
        )
        return b""
    return git.make_patch(root, changed)


def _size_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


async def _find_missing(client: Client, bodies: Mapping[str, bytes | FilePart]) -> list[MissingBlob]:
    blobs = [
        BlobRef(sha256=sha256, size_bytes=len(body) if isinstance(body, bytes) else body.size_bytes)
        for sha256, body in bodies.items()
    ]
    missing: list[MissingBlob] = []
    for start in range(0, len(blobs), _BLOBS_PER_CALL):
        request = FindMissingBlobsRequest(blobs=blobs[start : start + _BLOBS_PER_CALL])
        missing.extend((await client.artifacts.FindMissingBlobs(request, timeout=60.0)).missing)
    return missing


def _unreadable(root: Path, path: str, error: OSError) -> LocalError:
    return LocalError(
        "FILE_UNREADABLE", f"{root / path}: {error.strerror}; make it readable or name it in .vhignore"
    )
