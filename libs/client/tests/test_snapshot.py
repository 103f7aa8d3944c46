from __future__ import annotations

import hashlib
import socket
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from runyard.artifact.v1.artifact_service_pb2 import (
    FindMissingBlobsResponse,
    MissingBlob,
    RecordCodeSnapshotResponse,
)
from runyard.artifact.v1.types_pb2 import PresignedRequest
from runyard.run.v1.types_pb2 import CodeRef
from runyard_client import snapshot as snapshot_module
from runyard_client.client import Client
from runyard_client.context import Context
from runyard_client.errors import LocalError
from runyard_client.snapshot import Snapshot, take_snapshot, upload_snapshot
from runyard_contracts.ids import sha256_of
from runyard_contracts.manifest import Mode, format_manifest, parse_manifest

from .trees import git, paths, write

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_git")]


def test_clean_tree_is_its_commit(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://alice:secret@example.org/team/digits.git")
    taken = take_snapshot(repository)
    assert paths(taken) == [".gitignore", "lib/data.py", "run.sh", "train.py"]
    assert taken.code.git_commit == git(repository, "rev-parse", "HEAD")
    assert taken.code.git_branch == "main"
    assert taken.code.git_remote_url == "https://example.org/team/digits.git"
    assert not taken.code.dirty
    assert taken.code.patch_sha256 == ""
    assert taken.warnings == ()


def test_identity_is_the_hash_of_the_manifest(repository: Path) -> None:
    taken = take_snapshot(repository)
    manifest = taken.contents[taken.code.tree_sha256]
    assert hashlib.sha256(manifest).hexdigest() == taken.code.tree_sha256
    assert parse_manifest(manifest) == taken.entries
    assert format_manifest(taken.entries) == manifest
    assert taken.code.file_count == 4
    assert taken.code.size_bytes == sum(entry.size_bytes for entry in taken.entries)


def test_patch_leads_from_the_commit_to_the_tree(repository: Path, tmp_path: Path) -> None:
    write(repository, "train.py", "print(2)\n")
    git(repository, "add", "train.py")
    write(repository, "lib/data.py", "changed\n")
    (repository / "run.sh").unlink()
    write(repository, "new/größe.bin").write_bytes(bytes(range(256)))
    (repository / "link").symlink_to("lib/data.py")
    write(repository, "tool.sh").chmod(0o755)
    taken = take_snapshot(repository)
    assert taken.code.dirty

    checkout = tmp_path / "checkout"
    git(tmp_path, "clone", "-q", str(repository), str(checkout))
    (tmp_path / "patch").write_bytes(taken.contents[taken.code.patch_sha256])
    git(checkout, "apply", "--index", str(tmp_path / "patch"))
    assert take_snapshot(checkout).code.tree_sha256 == taken.code.tree_sha256


def test_taking_a_snapshot_changes_nothing_in_the_repository(repository: Path) -> None:
    write(repository, "train.py", "print(2)\n")
    write(repository, "new.py")
    files = {path: path.read_bytes() for path in (repository / ".git").rglob("*") if path.is_file()}
    take_snapshot(repository)
    assert files == {path: path.read_bytes() for path in (repository / ".git").rglob("*") if path.is_file()}


def test_ignored_files_are_left_out_and_untracked_ones_are_not(repository: Path) -> None:
    write(repository, "ignored/big.bin")
    write(repository, "lib/run.log")
    write(repository, "lib/new.py")
    write(repository, ".env", "TOKEN=1")
    write(repository, "lib/__pycache__/data.pyc")
    assert paths(take_snapshot(repository)) == [
        ".gitignore",
        "lib/data.py",
        "lib/new.py",
        "run.sh",
        "train.py",
    ]


def test_vhignore_leaves_out_tracked_files_without_making_the_tree_dirty(repository: Path) -> None:
    write(repository, ".vhignore", "lib/\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "second")
    write(repository, "lib/data.py", "changed\n")
    taken = take_snapshot(repository)
    assert "lib/data.py" not in paths(taken)
    assert not taken.code.dirty


def test_deleted_file_is_not_in_the_tree_but_in_the_patch(repository: Path) -> None:
    (repository / "train.py").unlink()
    taken = take_snapshot(repository)
    assert "train.py" not in paths(taken)
    assert b"deleted file" in taken.contents[taken.code.patch_sha256]


def test_folder_of_a_repository_is_a_tree_of_its_own(repository: Path) -> None:
    write(repository, "train.py", "changed elsewhere\n")
    taken = take_snapshot(repository / "lib")
    assert paths(taken) == ["data.py"]
    assert taken.code.git_commit == git(repository, "rev-parse", "HEAD")
    assert not taken.code.dirty
    write(repository, "lib/data.py", "changed here\n")
    patch = take_snapshot(repository / "lib")
    assert b"--- a/data.py" in patch.contents[patch.code.patch_sha256]


def test_tree_without_a_commit_is_dirty_and_has_no_patch(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    write(tmp_path, "a.py")
    taken = take_snapshot(tmp_path)
    assert (taken.code.git_commit, taken.code.dirty, taken.code.patch_sha256) == ("", True, "")
    assert paths(taken) == ["a.py"]


def test_repository_inside_counts_as_it_does_there(repository: Path) -> None:
    inner = repository / "vendor"
    inner.mkdir()
    git(inner, "init", "-q", "-b", "main")
    write(inner, ".gitignore", "*.tmp\n")
    write(inner, "inner.py")
    write(inner, "x.tmp")
    taken = take_snapshot(repository)
    assert "vendor/inner.py" in paths(taken)
    assert "vendor/x.tmp" not in paths(taken)


@pytest.fixture
def submodule(repository: Path, tmp_path: Path) -> Path:
    """Give a submodule of the repository, as it was committed."""
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "-q", "-b", "main")
    write(library, "lib.py", "committed\n")
    write(library, ".gitignore", "*.tmp\n")
    git(library, "add", ".")
    git(library, "commit", "-q", "-m", "library")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(library), "vendor/lib")
    git(repository, "commit", "-q", "-m", "with a submodule")
    return repository / "vendor/lib"


def content_of(snapshot: Snapshot, path: str) -> str:
    return next(entry.sha256 for entry in snapshot.entries if entry.path == path)


def test_submodule_is_part_of_the_tree_as_it_is_on_disk(repository: Path, submodule: Path) -> None:
    clean = take_snapshot(repository)
    assert {"vendor/lib/lib.py", "vendor/lib/.gitignore", ".gitmodules"} <= set(paths(clean))
    assert not clean.code.dirty

    write(submodule, "lib.py", "changed\n")
    write(submodule, "new.py", "untracked\n")
    write(submodule, "x.tmp", "ignored\n")
    dirty = take_snapshot(repository)

    assert content_of(dirty, "vendor/lib/lib.py") == sha256_of(b"changed\n")
    assert content_of(dirty, "vendor/lib/new.py") == sha256_of(b"untracked\n")
    assert "vendor/lib/x.tmp" not in paths(dirty)
    assert (dirty.code.git_commit, dirty.code.dirty) == (clean.code.git_commit, True)
    assert dirty.warnings == ()


def test_submodule_that_was_never_fetched_is_said(repository: Path, submodule: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository), str(clone))
    taken = take_snapshot(clone)
    assert not [path for path in paths(taken) if path.startswith("vendor/lib")]
    assert len(taken.warnings) == 1
    assert taken.warnings[0].startswith("vendor/lib is a submodule without its files: fetch them")


def test_staged_unstaged_and_untracked_are_taken_as_they_are_on_disk(repository: Path) -> None:
    write(repository, "train.py", "staged\n")
    git(repository, "add", "train.py")
    write(repository, "train.py", "staged, then changed again\n")
    write(repository, "lib/data.py", "unstaged\n")
    write(repository, "new.py", "untracked\n")
    write(repository, "added.py", "staged only\n")
    git(repository, "add", "added.py")
    taken = take_snapshot(repository)
    assert {entry.path: entry.sha256 for entry in taken.entries} == {
        path: sha256_of((repository / path).read_bytes())
        for path in (".gitignore", "added.py", "lib/data.py", "new.py", "run.sh", "train.py")
    }


def test_pointer_of_git_lfs_is_recorded_as_it_is_and_said(repository: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    write(repository, "weights.bin", pointer)
    write(repository, "notes.md", "see https://git-lfs.github.com/spec/v1\n")
    taken = take_snapshot(repository)
    assert content_of(taken, "weights.bin") == sha256_of(pointer.encode())
    assert taken.warnings == (
        "weights.bin is a pointer of Git LFS, not its content: fetch it with `git lfs pull`",
    )


def test_link_out_of_the_tree_is_recorded_as_it_is_and_said(repository: Path) -> None:
    (repository / "data").symlink_to("/mnt/data")
    (repository / "lib/up").symlink_to("../../elsewhere")
    (repository / "lib/in").symlink_to("../train.py")
    taken = take_snapshot(repository)
    assert content_of(taken, "data") == sha256_of(b"/mnt/data")
    assert [warning.split(":")[0] for warning in taken.warnings] == [
        "data points out of the tree",
        "lib/up points out of the tree",
    ]


def test_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, "log.txt", "first\n")
    writes = [b"other\nsecond\n"]

    def write_while_it_is_read(_: int) -> None:
        if writes:
            file.write_bytes(writes.pop())

    taken = take_snapshot(tmp_path, write_while_it_is_read)
    assert content_of(taken, "log.txt") == sha256_of(b"other\nsecond\n")
    assert taken.code.size_bytes == 13

    writes[:] = [b"x" * size_bytes for size_bytes in range(1, 13)]
    with pytest.raises(LocalError, match=r"log\.txt: is written to all the time") as caught:
        take_snapshot(tmp_path, write_while_it_is_read)
    assert caught.value.reason == "FILE_CHANGED"


class Yard:
    """An artifact service and its store in one; keeps what it is sent by its hash."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.recorded: list[CodeRef] = []
        self.artifacts = self
        self.context = Context(addresses={}, token="")

    async def FindMissingBlobs(self, request: Any, timeout: float) -> FindMissingBlobsResponse:
        missing = [MissingBlob(sha256=blob.sha256) for blob in request.blobs if blob.sha256 not in self.blobs]
        for blob in missing:
            blob.put.url = blob.sha256
        return FindMissingBlobsResponse(missing=missing)

    async def RecordCodeSnapshot(self, request: Any, timeout: float) -> RecordCodeSnapshotResponse:
        self.recorded.append(request.code)
        return RecordCodeSnapshotResponse(position=len(self.recorded))

    def __enter__(self) -> Yard:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    async def put(self, request: PresignedRequest, body: Any, on_bytes: object) -> str:
        data = body if isinstance(body, bytes) else body.path.read_bytes()
        assert sha256_of(data) == request.url
        self.blobs[request.url] = data
        return ""


async def test_second_upload_sends_only_what_changed(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = Yard()
    monkeypatch.setattr(snapshot_module, "Store", lambda _: yard)
    first = take_snapshot(repository)
    await upload_snapshot(cast("Client", yard), first)
    assert parse_manifest(yard.blobs[first.code.tree_sha256]) == first.entries
    assert {entry.sha256 for entry in first.entries} < yard.blobs.keys()
    before = set(yard.blobs)

    await upload_snapshot(cast("Client", yard), take_snapshot(repository))
    assert set(yard.blobs) == before

    write(repository, "train.py", "print(2)\n")
    second = take_snapshot(repository)
    await upload_snapshot(cast("Client", yard), second)
    assert set(yard.blobs) - before == {
        sha256_of(b"print(2)\n"),
        second.code.tree_sha256,
        second.code.patch_sha256,
    }
    assert [code.tree_sha256 for code in yard.recorded] == [
        first.code.tree_sha256,
        first.code.tree_sha256,
        second.code.tree_sha256,
    ]


def test_folder_without_git_has_its_files_but_the_ignored(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", "/data\n")
    write(tmp_path, "data/train.bin")
    write(tmp_path, "sub/data/kept.bin")
    write(tmp_path, "sub/.gitignore", "*.log\n")
    write(tmp_path, "sub/x.log")
    write(tmp_path, ".vhignore", "notes.md\n")
    write(tmp_path, "notes.md")
    write(tmp_path, "train.py")
    write(tmp_path, "__pycache__/train.pyc")
    taken = take_snapshot(tmp_path)
    assert paths(taken) == [".gitignore", ".vhignore", "sub/.gitignore", "sub/data/kept.bin", "train.py"]
    assert taken.code.git_commit == ""
    assert not taken.code.dirty


def test_same_files_give_the_same_identity_with_and_without_git(repository: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    subprocess.run(["cp", "-r", str(repository), str(plain)], check=True)
    subprocess.run(["rm", "-rf", str(plain / ".git")], check=True)
    assert take_snapshot(plain).code.tree_sha256 == take_snapshot(repository).code.tree_sha256


def test_modes_and_symlinks_are_kept(tmp_path: Path) -> None:
    write(tmp_path, "plain")
    write(tmp_path, "tool").chmod(0o755)
    (tmp_path / "to_folder").symlink_to("/etc", target_is_directory=True)
    (tmp_path / "broken").symlink_to("nowhere")
    taken = take_snapshot(tmp_path)
    assert {entry.path: entry.mode for entry in taken.entries} == {
        "broken": Mode.SYMLINK,
        "plain": Mode.FILE,
        "to_folder": Mode.SYMLINK,
        "tool": Mode.EXECUTABLE,
    }
    target = next(entry for entry in taken.entries if entry.path == "to_folder")
    assert taken.contents[target.sha256] == b"/etc"
    assert taken.has_file("plain")
    assert not taken.has_file("broken")


def test_special_file_is_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        taken = take_snapshot(tmp_path)
    assert paths(taken) == ["a.py"]
    assert taken.warnings == ("s is neither a file nor a symlink and was left out",)
