"""Code snapshots rebuilt from manifests, also from hostile ones."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from runyard.run.v1.types_pb2 import CodeRef
from runyard_agent import code
from runyard_client.snapshot import take_snapshot
from runyard_contracts.ids import Sha256
from runyard_contracts.manifest import Entry, Mode, format_manifest
from runyard_core.errors import Unavailable

from .store_double import Yard, serving, sha256_of

pytestmark = pytest.mark.system


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving(tmp_path) as yard:
        yield yard


def push_tree(yard: Yard, files: dict[str, tuple[Mode, bytes]]) -> CodeRef:
    entries = [
        Entry(path, mode, Sha256(yard.store.put(content)), len(content))
        for path, (mode, content) in files.items()
    ]
    return CodeRef(tree_sha256=yard.store.put(format_manifest(entries)))


TREE = {
    "train.py": (Mode.FILE, b"print(1)\n"),
    "bin/go": (Mode.EXECUTABLE, b"#!/bin/sh\n"),
    "deep/er/empty": (Mode.FILE, b""),
    "new\nline \\ é.txt": (Mode.FILE, b"odd"),
    "deep/link": (Mode.SYMLINK, b"../train.py"),
    "nowhere": (Mode.SYMLINK, b"deep/missing"),
}


async def test_a_tree_is_rebuilt_with_its_modes_and_symlinks(yard: Yard, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    await code.checkout(yard.client, push_tree(yard, TREE), root, cache=yard.cache)

    assert (root / "train.py").read_bytes() == b"print(1)\n"
    assert (root / "new\nline \\ é.txt").read_bytes() == b"odd"
    assert os.readlink(root / "deep/link") == "../train.py"
    assert os.readlink(root / "nowhere") == "deep/missing"
    modes = {name: (root / name).stat().st_mode & 0o777 for name in ("train.py", "bin/go")}
    assert modes == {"train.py": 0o644, "bin/go": 0o755}
    assert (root / "deep/er/empty").read_bytes() == b""


HOSTILE = (
    "-rf",
    "--help",
    " leading and trailing ",
    "new\nline",
    "back\\slash\\n",
    "tab\there",
    "quote\"and'quote",
    "$(touch pwned);`id`&|",
    "*?[glob]",
    "#comment",
    "!bang",
    "~",
    "e\u0301 and \u00e9",
    "\U0001f4a3\u202egnp.exe",
    "CON",
    "con",
    "a" * 255,
    "100644 " + "0" * 64 + " 1 x",
    ".gitmodules",
    "sub/.hidden/-x",
)


async def test_a_snapshot_of_hostile_names_is_rebuilt_byte_for_byte(yard: Yard, tmp_path: Path) -> None:
    tree, root = tmp_path / "tree", tmp_path / "repository"
    for number, name in enumerate(HOSTILE):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(bytes([number]) * number)
        (tree / name).chmod(0o755 if number % 3 == 0 else 0o644)
    (tree / "link\n to -rf").symlink_to("-rf")
    (tree / "sub/up").symlink_to("../new\nline")
    snapshot = take_snapshot(tree)
    for entry in snapshot.entries:
        yard.store.put(snapshot.contents.get(entry.sha256) or (tree / entry.path).read_bytes())
    yard.store.put(snapshot.contents[snapshot.code.tree_sha256])

    await code.checkout(yard.client, snapshot.code, root, cache=yard.cache)

    assert described(root) == described(tree)
    assert len(described(root)) == len(HOSTILE) + 2
    assert take_snapshot(root).code.tree_sha256 == snapshot.code.tree_sha256


def described(root: Path) -> dict[str, tuple[bool, str, bytes]]:
    """Give every file: whether it can be run, where it points to, its bytes."""
    found = {}
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            target = os.readlink(path) if path.is_symlink() else ""
            is_executable = bool(path.lstat().st_mode & 0o100) and not target
            found[str(path.relative_to(root))] = (is_executable, target, path.read_bytes())
    return found


async def test_a_second_checkout_fetches_nothing_and_replaces_what_was_there(
    yard: Yard, tmp_path: Path
) -> None:
    root = tmp_path / "repository"
    ref = push_tree(yard, TREE)
    await code.checkout(yard.client, ref, root, cache=yard.cache)
    fetched_count = len(yard.store.requests)
    (root / "train.py").write_text("changed")
    (root / "extra").write_text("extra")

    await code.checkout(yard.client, ref, root, cache=yard.cache)

    assert len(yard.store.requests) == fetched_count
    assert (root / "train.py").read_bytes() == b"print(1)\n"
    assert not (root / "extra").exists()


async def test_a_changed_cache_file_is_fetched_again(yard: Yard, tmp_path: Path) -> None:
    ref = push_tree(yard, TREE)
    await code.checkout(yard.client, ref, tmp_path / "first", cache=yard.cache)
    sha256 = sha256_of(b"print(1)\n")
    cached = tmp_path / "cache" / sha256[:2] / sha256
    cached.chmod(0o644)
    cached.write_text("poisoned")

    await code.checkout(yard.client, ref, tmp_path / "second", cache=yard.cache)

    assert (tmp_path / "second/train.py").read_bytes() == b"print(1)\n"
    assert cached.read_bytes() == b"print(1)\n"


async def test_no_code_is_an_empty_folder(yard: Yard, tmp_path: Path) -> None:
    await code.checkout(yard.client, CodeRef(), tmp_path / "repository", cache=yard.cache)

    assert list((tmp_path / "repository").iterdir()) == []


async def test_symlinks_out_of_the_tree_are_kept_and_nothing_is_ever_written_through_them(
    yard: Yard, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    targets = {
        "data": bytes(outside),
        "a/link": b"../../outside/file",
        "d/up": b"..",
        "loop": b"loop",
        "gone": b"/none",
    }
    files = {path: (Mode.SYMLINK, target) for path, target in targets.items()}
    first = push_tree(yard, {**files, "train.py": (Mode.FILE, b"1")})
    # What was a link into another folder is a folder of the tree in the next snapshot.
    second = push_tree(yard, {"data/file": (Mode.FILE, b"new"), "a/link/file": (Mode.FILE, b"new")})
    root = tmp_path / "repository"

    await code.checkout(yard.client, first, root, cache=yard.cache)
    found = {path: os.readlink(os.fsencode(root / path)) for path in targets}
    await code.checkout(yard.client, second, root, cache=yard.cache)

    assert found == targets
    assert (root / "data/file").read_bytes() == b"new"
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "untouched"


async def test_a_symlink_that_leads_nowhere_at_all_is_refused(yard: Yard, tmp_path: Path) -> None:
    ref = push_tree(yard, {"link": (Mode.SYMLINK, b"")})
    with pytest.raises(Unavailable, match="not a path") as error:
        await code.checkout(yard.client, ref, tmp_path / "repository", cache=yard.cache)

    assert error.value.code == "ENVIRONMENT_UNAVAILABLE"
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    "line",
    [
        "100644 {sha} 1 ../escape",
        "100644 {sha} 1 /etc/cron.d/x",
        "100644 {sha} 1 a//b",
        "100644 {sha} 1 .git/hooks/post-checkout",
        "100644 {sha} 1 d\n100644 {sha} 1 d/file",
        "040000 {sha} 1 d",
    ],
)
async def test_manifests_that_break_the_rules_write_nothing(yard: Yard, tmp_path: Path, line: str) -> None:
    sha256 = yard.store.put(b"x")
    tree = yard.store.put((line.format(sha=sha256) + "\n").encode())

    with pytest.raises(Unavailable) as error:
        await code.checkout(
            yard.client, CodeRef(tree_sha256=tree), tmp_path / "r/epository", cache=yard.cache
        )

    assert error.value.code == "ENVIRONMENT_UNAVAILABLE"
    assert not (tmp_path / "r/escape").exists()


async def test_bytes_that_are_not_those_of_the_hash_are_refused(yard: Yard, tmp_path: Path) -> None:
    ref = push_tree(yard, TREE)
    yard.store.objects[f"/blobs/{sha256_of(b'odd')}"] = b"evil"

    with pytest.raises(Unavailable, match="SHA-256") as error:
        await code.checkout(yard.client, ref, tmp_path / "repository", cache=yard.cache)

    assert error.value.code == "ENVIRONMENT_UNAVAILABLE"


async def test_a_service_that_is_away_for_a_moment_costs_nothing(yard: Yard, tmp_path: Path) -> None:
    yard.catalogue.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED]
    yard.store.statuses = [403, 503]

    await code.checkout(yard.client, push_tree(yard, TREE), tmp_path / "repository", cache=yard.cache)

    assert (tmp_path / "repository/train.py").exists()


async def test_a_missing_blob_is_named(yard: Yard, tmp_path: Path) -> None:
    ref = push_tree(yard, TREE)
    del yard.store.objects[f"/blobs/{sha256_of(b'odd')}"]

    with pytest.raises(Unavailable, match=f"no blob {sha256_of(b'odd')}"):
        await code.checkout(yard.client, ref, tmp_path / "repository", cache=yard.cache)
