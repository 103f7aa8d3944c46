"""Outputs of a program that means harm: nothing outside is read, nothing hangs, nothing stays behind."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent import collecting, output_record
from runyard_agent.below import DEPTH_MAX, open_below, remove_tree
from runyard_agent.live_outputs import _handed_over
from runyard_agent.outputs import FoundFile, OutputsIncomplete, OutputsOf, list_outputs

from .other_users import let_others_in
from .store_double import Yard, serving, sha256_of

pytestmark = pytest.mark.system

CONTRACT = (Path(__file__).parents[3] / "docs/run-contract.md").read_text(encoding="utf-8")
SECRET = b"what only the machine's owner may read"


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving(tmp_path) as yard:
        yield yard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "outputs"


def outputs_of(yard: Yard, folder: Path, told: list[str]) -> OutputsOf:
    origin = Origin(run_id="run-1", attempt=2, project="vision")
    return OutputsOf(yard.client, folder, origin, folder.parent / "live.jsonl", told.append)


def output(path: str, data: bytes) -> OutputFile:
    return OutputFile(path=path, sha256=sha256_of(data), size_bytes=len(data))


def nest(folder: Path, depth: int, name: str = "d") -> None:
    """Nest folders deeper than any path can say."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)


async def test_an_outputs_folder_that_became_a_symlink_is_refused(yard: Yard, folder: Path) -> None:
    os.rmdir(folder)
    os.symlink(folder.parent, folder)

    with pytest.raises(OutputsIncomplete, match="cannot be read") as error:
        await collecting.collect(outputs_of(yard, folder, []))

    assert error.value.stored == []
    assert SECRET not in yard.store.objects.values()
    assert list(_handed_over(folder)) == []
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        open_below(folder, PurePosixPath("secret"))


async def test_names_swapped_for_symlinks_during_collection_give_nothing_away(
    yard: Yard, folder: Path
) -> None:
    (folder / "d").mkdir()
    for number in range(20):
        (folder / f"d/secret{number}").write_bytes(b"harmless")
        (folder.parent / f"secret{number}").write_bytes(SECRET)

    with swapping(folder / "d", folder / "e", folder.parent):
        for _ in range(10):
            try:
                await collecting.collect(outputs_of(yard, folder, []))
            except OutputsIncomplete:
                continue

    assert SECRET not in yard.store.objects.values()


@contextmanager
def swapping(first: Path, other: Path, target: Path) -> Iterator[None]:
    """Let a folder be, by turns, itself and a symlink to another one."""
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            first.rename(other)
            first.symlink_to(target)
            first.unlink()
            other.rename(first)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


async def test_odd_names_are_stored_or_refused_each_by_itself(yard: Yard, folder: Path) -> None:
    (folder / "two\nlines").write_bytes(b"1")
    (folder / "*?[x]'\"\\ é").write_bytes(b"2")
    (folder / "-rf").write_bytes(b"3")
    (folder / os.fsdecode(b"\xff\xfe")).write_bytes(b"4")
    nest(folder, 20, "long" * 60)
    told: list[str] = []

    with pytest.raises(OutputsIncomplete) as error:
        await collecting.collect(outputs_of(yard, folder, told))

    stored = {file.path for file in error.value.stored}
    assert {"two\nlines", "*?[x]'\"\\ é", "-rf"} <= stored
    assert any("not valid UTF-8" in sentence for sentence in error.value.reasons)
    assert any("too long" in sentence for sentence in error.value.reasons)


async def test_files_with_several_names_are_stored_under_each(yard: Yard, folder: Path) -> None:
    (folder / "a").write_bytes(b"data")
    os.link(folder / "a", folder / "b")

    stored = await collecting.collect(outputs_of(yard, folder, []))

    assert stored == [output("a", b"data"), output("b", b"data")]


async def test_pipes_sockets_and_devices_are_skipped_and_never_opened(yard: Yard, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(folder, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{here}/socket")
    count = 2
    if os.geteuid() == 0:
        os.mknod(folder / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        count = 3
    told: list[str] = []

    assert await collecting.collect(outputs_of(yard, folder, told)) == []

    assert len([sentence for sentence in told if "is skipped" in sentence]) == count
    listener.close()
    os.close(here)


async def test_folders_nested_without_end_are_refused_and_removed(yard: Yard, folder: Path) -> None:
    nest(folder, 3000)
    (folder / "good").write_bytes(b"good")

    with pytest.raises(OutputsIncomplete, match=f"last of {DEPTH_MAX} folders") as error:
        await collecting.collect(outputs_of(yard, folder, []))

    assert error.value.stored == [output("good", b"good")]
    assert list(_handed_over(folder)) == []
    assert remove_tree(folder)
    assert os.listdir(folder.parent) == ["secret"]


async def test_more_outputs_than_a_list_holds_are_said_and_the_first_are_stored(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "LIST_BYTES_MAX", 1000)
    for number in range(50):
        (folder / f"{number:02}").write_bytes(b"same")
    told: list[str] = []

    with pytest.raises(OutputsIncomplete, match="39 outputs from '11' on are not stored") as error:
        await collecting.collect(outputs_of(yard, folder, told))

    assert [file.path for file in error.value.stored] == [f"{number:02}" for number in range(11)]
    assert sum(file.ByteSize() + 4 for file in error.value.stored) <= 1000


@pytest.mark.parametrize(("path_bytes", "named", "count"), [(23, 8_018, 75_573), (100, 4_734, 44_620)])
def test_a_record_holds_as_many_outputs_as_the_run_contract_says(
    yard: Yard, folder: Path, path_bytes: int, named: int, count: int
) -> None:
    paths = [PurePosixPath(f"{number:0{path_bytes}}") for number in range(76_000)]
    told: list[str] = []

    files = [FoundFile(path, path) for path in paths]
    kept = collecting._within_list(outputs_of(yard, folder, told), files, [], refused=[])

    assert [file.path for file in kept] == paths[:count]
    assert told[0].startswith(f"{76_000 - count} outputs from '{paths[count]}' on are not stored")
    assert named == output_record.RECORD_BYTES_MAX // output_record.record_bytes(str(paths[0]))
    assert f"{output_record.RECORD_BYTES_MAX:,} bytes, of which each file takes" in CONTRACT
    assert f"{collecting.LIST_BYTES_MAX:,} bytes" in CONTRACT
    for each in (named, count):
        assert re.search(rf"{each:,} (files with paths )?of {path_bytes}\b", CONTRACT)


async def test_a_million_things_to_complain_of_make_a_hundred_sentences(yard: Yard, folder: Path) -> None:
    for number in range(150):
        os.mkfifo(folder / f"{number:03}")
    told: list[str] = []

    await collecting.collect(outputs_of(yard, folder, told))

    assert len(told) == 101
    assert told[-1] == "and 50 more outputs like these"


SHUT_OFF = """
    import os, sys
    from pathlib import Path, PurePosixPath
    from runyard_agent.below import open_below, remove_tree
    from runyard_agent.outputs import list_outputs

    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    folder = Path(sys.argv[1])
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_bytes(b"data")
    for path in ("a/b/file", "a/b", "a", "."):
        os.chmod(folder / path, 0)
    listing = list_outputs(folder)
    assert [str(file.path) for file in listing.files] == ["a/b/file"], listing
    assert listing.refused == []
    assert os.read(open_below(folder, PurePosixPath("a/b/file")), 9) == b"data"
    for path in ("a/b/file", "a/b", "a", "."):
        os.chmod(folder / path, 0)
    assert remove_tree(folder)
    assert not folder.exists()
"""


def test_what_a_program_shuts_off_from_its_own_user_is_stored_and_removed(tmp_path: Path) -> None:
    """As an agent that is not root; as root nothing is shut off."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    let_others_in(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHUT_OFF), str(place / "outputs")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def test_a_tree_without_anything_odd_is_removed_too(tmp_path: Path) -> None:
    (tmp_path / "t/a/b").mkdir(parents=True)
    (tmp_path / "t/a/b/file").write_bytes(b"x")
    (tmp_path / "t/link").symlink_to(tmp_path)
    (tmp_path / "kept").write_bytes(b"kept")

    assert remove_tree(tmp_path / "t")
    assert remove_tree(tmp_path / "t")

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert list_outputs(tmp_path / "t").files == []
