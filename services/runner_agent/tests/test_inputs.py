"""Inputs of every kind, laid out as the run contract says."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import AttemptStarted
from runyard.run.v1.types_pb2 import Input, InputFile
from runyard_agent.domain import inputs_record
from runyard_agent.domain.inputs_record import file_bytes, input_bytes
from runyard_core.errors import Unavailable

from .input_folder import fetch, yard
from .store_double import Yard, serving, sha256_of

__all__ = ["yard"]


async def test_a_stored_file_lies_under_its_name_and_is_recorded(yard: Yard, tmp_path: Path) -> None:
    sha256 = yard.catalogue.push("models/a.bin", b"weights")

    [found] = await fetch(yard, tmp_path, Input(name="model", uris=[f"datum://{sha256}"]))

    assert (tmp_path / "inputs/model/a.bin").read_bytes() == b"weights"
    assert list(found.files) == [
        InputFile(uri=f"datum://{sha256}", path="a.bin", sha256=sha256, size_bytes=7, moved_bytes=7)
    ]


async def test_files_resolved_at_submit_are_not_asked_for_again(yard: Yard, tmp_path: Path) -> None:
    sha256 = yard.store.put(b"weights")
    wanted = Input(name="model", uris=["datum://0123abcd"])
    wanted.files.add(uri="datum://0123abcd", path="a.bin", sha256=sha256)

    [found] = await fetch(yard, tmp_path, wanted)

    assert found.files[0].sha256 == sha256


async def test_more_files_than_one_record_names_are_refused_before_any_is_fetched(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_record, "RECORD_BYTES_MAX", 5_000)
    folder = tmp_path / "shared/set"
    folder.mkdir(parents=True)
    for number in range(30):
        (folder / f"{number}.jpg").touch()
    sha256 = yard.store.put(b"weights")
    stored = Input(name="model", uris=["dataset://models/v1"])
    stored.files.add(uri=stored.uris[0], path="a.bin", sha256=sha256, size_bytes=7)
    uri = f"file://{folder}/*"
    wanted = (stored, Input(name="set", uris=[uri]))

    with pytest.raises(Unavailable) as error:
        await fetch(yard, tmp_path, *wanted, shared_folders=(folder,))

    assert error.value.code == "INPUT_UNAVAILABLE"
    assert error.value.message.startswith(
        f"input 'set' ({uri}) cannot be had: it has 30 files, and names and hashes of all input files take "
    )
    assert "; one record holds 5000: pack them" in error.value.message
    assert yard.store.requests == []


def test_what_inputs_take_in_the_record_is_not_guessed_too_low() -> None:
    one = Input(name="set", uris=[f"https://example.com/{number}" for number in range(9)])
    web = InputFile(uri="https://example.com/a.bin")
    stored = InputFile(uri="dataset://images/newest", resolved_uri="dataset://images/v1", size_bytes=5 << 20)
    guessed = input_bytes(one) + sum(file_bytes(file, "x/a.bin") for file in (web, stored))
    for file, size_bytes in ((web, 30 << 30), (stored, 5 << 20)):
        file.path, file.sha256, file.size_bytes, file.moved_bytes = (
            "x/a.bin",
            "f" * 64,
            size_bytes,
            size_bytes,
        )
    one.files.extend([web, stored])
    assert 0 <= guessed - AttemptStarted(inputs=[one]).ByteSize() < 10


async def test_many_stored_files_are_asked_for_at_once_and_only_when_they_are_lacking(
    yard: Yard, tmp_path: Path
) -> None:
    sha256s = [yard.catalogue.push(f"{number}", f"content {number}".encode()) for number in range(5)]
    wanted = Input(name="data", uris=[f"datum://{sha256}" for sha256 in sha256s])
    one = Input(name="one", uris=[f"datum://{sha256s[0]}"])

    await fetch(yard, tmp_path / "1", one)
    await fetch(yard, tmp_path / "2", wanted)
    await fetch(yard, tmp_path / "3", wanted)

    assert yard.catalogue.asked_together == [sha256s[1:]]
    assert (tmp_path / "3/inputs/data/4").read_bytes() == b"content 4"


@pytest.mark.parametrize("is_old", [True, False])
async def test_what_cannot_be_had_at_once_is_asked_for_by_itself(
    yard: Yard, tmp_path: Path, is_old: bool
) -> None:
    sha256s = [yard.catalogue.push(f"{number}", f"content {number}".encode()) for number in range(2)]
    yard.catalogue.is_old = is_old
    # The first of the requests that were given has expired; an older service gives none.
    yard.store.statuses = [] if is_old else [403]

    await fetch(yard, tmp_path, Input(name="data", uris=[f"datum://{sha256}" for sha256 in sha256s]))

    assert sorted(path.name for path in (tmp_path / "inputs/data").iterdir()) == ["0", "1"]


async def test_a_second_run_links_the_same_bytes_without_fetching(yard: Yard, tmp_path: Path) -> None:
    sha256 = yard.catalogue.push("a.bin", b"weights")
    wanted = Input(name="model", uris=[f"datum://{sha256}"])
    [first_found] = await fetch(yard, tmp_path / "1", wanted)
    [second_found] = await fetch(yard, tmp_path / "2", wanted)

    assert len(yard.store.requests) == 1
    assert [found.files[0].moved_bytes for found in (first_found, second_found)] == [7, 0]
    assert second_found.files[0].HasField("moved_bytes")
    first, second = (tmp_path / run / "inputs/model/a.bin" for run in "12")
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_mode & 0o777 == 0o444


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.system
async def test_on_a_full_disk_kept_files_that_nobody_uses_give_way(small_disk: Path) -> None:
    async with serving(small_disk) as yard:
        datum, more = (yard.catalogue.push(name, os.urandom(300_000)) for name in ("first", "more"))
        yard.store.objects["/web"] = os.urandom(300_000)
        (small_disk.parent / "local").write_bytes(bytes(300_000))
        used = Input(name="used", uris=[f"datum://{more}"])
        await fetch(yard, small_disk / "goes-on", used)
        wanted = (f"datum://{datum}", f"{yard.store.address}/web", f"file://{small_disk.parent}/local")
        for run, uri in enumerate(wanted):
            # With what is kept of the one before there is no room for it beside what is in use.
            filler = small_disk / "filler"
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 350_000 * (run == 0)))
            [found] = await fetch(
                yard,
                small_disk / str(run),
                Input(name="set", uris=[uri]),
                shared_folders=(small_disk.parent,),
            )
            assert found.files[0].size_bytes == 300_000
            filler.unlink()
            shutil.rmtree(small_disk / str(run))
        assert await yard.cache.lacking([datum, more]) == [datum]

        (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
        with pytest.raises(Unavailable, match="No space left on device"):
            await fetch(yard, small_disk / "last", Input(name="set", uris=[f"datum://{datum}"]))


async def test_a_run_that_wants_its_files_fetched_gets_them_fetched(yard: Yard, tmp_path: Path) -> None:
    sha256 = yard.catalogue.push("a.bin", b"weights")
    yard.store.objects["/web.bin"] = b"web"
    stored = Input(name="model", uris=[f"datum://{sha256}"])
    web = Input(name="web", uris=[f"{yard.store.address}/web.bin"])
    for run in "12":
        found = await fetch(yard, tmp_path / run, stored, web, variables={"VH_NO_DATA_CACHE": "yes"})

    assert len(yard.store.requests) == 4
    assert [each.files[0].sha256 for each in found] == [sha256, sha256_of(b"web")]
    for path in ("model/a.bin", "web/web.bin"):
        first, second = (tmp_path / run / "inputs" / path for run in "12")
        assert first.stat().st_ino != second.stat().st_ino
        assert first.stat().st_mode & 0o777 == 0o444


async def test_a_program_that_changed_its_input_does_not_change_it_for_others(
    yard: Yard, tmp_path: Path
) -> None:
    sha256 = yard.catalogue.push("a.bin", b"weights")
    wanted = Input(name="model", uris=[f"datum://{sha256}"])
    await fetch(yard, tmp_path / "1", wanted)
    changed = tmp_path / "1/inputs/model/a.bin"
    changed.chmod(0o644)
    changed.write_bytes(b"changed")

    await fetch(yard, tmp_path / "2", wanted)

    assert (tmp_path / "2/inputs/model/a.bin").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("keep_directories", "path"), [("none", "a.bin"), ("suffix", "x/y/a.bin"), ("full", "x/y/a.bin")]
)
async def test_folders_are_kept_when_asked_for(
    yard: Yard, tmp_path: Path, keep_directories: str, path: str
) -> None:
    sha256 = yard.catalogue.push("x/y/a.bin", b"weights")

    [found] = await fetch(
        yard,
        tmp_path,
        Input(name="model", uris=[f"datum://{sha256}"], keep_directories=keep_directories),
    )

    assert found.files[0].path == path
    assert (tmp_path / "inputs/model" / path).exists()


async def test_a_filename_renames_the_only_file(yard: Yard, tmp_path: Path) -> None:
    sha256 = yard.catalogue.push("x/a.bin", b"weights")

    await fetch(yard, tmp_path, Input(name="model", uris=[f"datum://{sha256}"], filename="best.pt"))

    assert os.listdir(tmp_path / "inputs/model") == ["best.pt"]


async def test_of_two_files_with_one_name_the_last_stays_and_somebody_is_told(
    yard: Yard, tmp_path: Path
) -> None:
    uris = [f"datum://{yard.catalogue.push(f'{name}/a.bin', name.encode())}" for name in ("one", "two")]
    told: list[str] = []

    [found] = await fetch(yard, tmp_path, Input(name="model", uris=uris), told=told)

    assert (tmp_path / "inputs/model/a.bin").read_bytes() == b"two"
    assert [file.uri for file in found.files] == [uris[1]]
    assert told == [f"input model: a.bin of {uris[1]} replaces that of {uris[0]}"]


async def test_an_optional_input_without_files_is_an_empty_folder(yard: Yard, tmp_path: Path) -> None:
    [found] = await fetch(yard, tmp_path, Input(name="maybe"))

    assert list(found.files) == []
    assert list((tmp_path / "inputs/maybe").iterdir()) == []


async def test_files_of_the_node_need_the_permission_of_its_operator(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(b"local")
    wanted = Input(name="local", uris=[f"file://{tmp_path}/big.bin"])

    with pytest.raises(Unavailable, match="does not share it"):
        await fetch(yard, tmp_path, wanted, shared_folders=(tmp_path / "other",))
    [found] = await fetch(yard, tmp_path, wanted, shared_folders=(tmp_path,))

    assert found.files[0].sha256 == sha256_of(b"local")
    assert (tmp_path / "inputs/local/big.bin").read_bytes() == b"local"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("datum://" + "0" * 64, "there is no artifact"),
        ("gs://bucket/key", "there is no artifact"),
        ("{store}/missing", "answered 404"),
        ("file:///does/not/exist", "No such file"),
        ("file:///", "Is a directory"),
    ],
)
async def test_an_input_that_cannot_be_had_is_named(
    yard: Yard, tmp_path: Path, uri: str, reason: str
) -> None:
    uri = uri.format(store=yard.store.address)

    with pytest.raises(Unavailable, match=reason) as error:
        await fetch(yard, tmp_path, Input(name="data", uris=[uri]), shared_folders=(Path("/"),))

    assert error.value.code == "INPUT_UNAVAILABLE"
    assert error.value.metadata == {"input": "data", "uri": uri}
    assert "'data'" in error.value.message


@pytest.mark.parametrize(
    ("keep_directories", "kept"),
    [
        ("none", ["a.jpg", "b.jpg"]),
        ("suffix", ["a.jpg", "x/b.jpg"]),
        ("full", ["{root}/images/a.jpg", "{root}/images/x/b.jpg"]),
    ],
)
async def test_a_pattern_gives_every_file_that_it_means(
    yard: Yard, tmp_path: Path, keep_directories: str, kept: list[str]
) -> None:
    for name in ("a.jpg", "x/b.jpg", "x/c.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_text(name, encoding="utf-8")
    uri = f"file://{tmp_path}/images/**.jpg"
    wanted = Input(name="set", uris=[uri], keep_directories=keep_directories)

    [found] = await fetch(yard, tmp_path, wanted, shared_folders=(tmp_path,))

    assert [file.path for file in found.files] == [
        path.format(root=str(tmp_path).removeprefix("/")) for path in kept
    ]
    assert {file.uri for file in found.files} == {uri}
    assert found.files[1].resolved_uri == f"file://{tmp_path}/images/x/b.jpg"
    assert (tmp_path / "inputs/set" / found.files[1].path).read_text(encoding="utf-8") == "x/b.jpg"


async def test_a_pattern_gives_files_whose_names_look_escaped(yard: Yard, tmp_path: Path) -> None:
    names = ("100%.csv", "a%20b.csv", "c#1?d e.csv")
    for name in names:
        (tmp_path / name).write_text(name, encoding="utf-8")
    wanted = Input(name="set", uris=[f"file://{tmp_path}/*.csv"])

    [found] = await fetch(yard, tmp_path, wanted, shared_folders=(tmp_path,))

    assert [file.path for file in found.files] == sorted(names)
    for name in names:
        assert (tmp_path / "inputs/set" / name).read_text(encoding="utf-8") == name
    # What the record says is fetched again as it was.
    [again] = await fetch(yard, tmp_path / "later", found, shared_folders=(tmp_path,))
    assert list(again.files) == list(found.files)


async def test_a_pattern_that_means_nothing_is_named(yard: Yard, tmp_path: Path) -> None:
    wanted = Input(name="set", uris=[f"file://{tmp_path}/*.jpg"])

    with pytest.raises(Unavailable, match="no file is meant"):
        await fetch(yard, tmp_path, wanted, shared_folders=(tmp_path,))


async def test_a_name_that_no_record_can_hold_is_named(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (b"a.jpg", b"b\xff.jpg"):
        os.mknod(os.path.join(os.fsencode(tmp_path), b"images", name))
    wanted = Input(name="set", uris=[f"file://{tmp_path}/images/*"])

    with pytest.raises(Unavailable, match=r"b\\udcff\.jpg' is refused: it is not valid UTF-8"):
        await fetch(yard, tmp_path, wanted, shared_folders=(tmp_path,))


async def test_a_link_does_not_lead_out_of_a_shared_folder(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    (tmp_path / "shared/link").symlink_to(tmp_path / "secret")
    wanted = Input(name="set", uris=[f"file://{tmp_path}/shared/link"])

    with pytest.raises(Unavailable, match="does not share it"):
        await fetch(yard, tmp_path, wanted, shared_folders=(tmp_path / "shared",))


async def test_a_recorded_pattern_gives_the_files_that_it_meant_then(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "new.jpg").write_bytes(b"new")
    wanted = Input(name="set", uris=[f"file://{tmp_path}/*.jpg"])
    wanted.files.add(
        uri=wanted.uris[0], path="a.jpg", sha256=sha256_of(b"a"), resolved_uri=f"file://{tmp_path}/a.jpg"
    )

    [found] = await fetch(yard, tmp_path, wanted, shared_folders=(tmp_path,))

    assert [file.path for file in found.files] == ["a.jpg"]


async def test_an_input_on_demand_is_listed_and_not_fetched(yard: Yard, tmp_path: Path) -> None:
    sha256 = yard.catalogue.push("a.bin", b"weights")

    [found] = await fetch(yard, tmp_path, Input(name="model", uris=[f"datum://{sha256}"], on_demand=True))

    assert [(file.path, file.sha256) for file in found.files] == [("a.bin", sha256)]
    assert list((tmp_path / "inputs/model").iterdir()) == []
    assert yard.store.requests == []


@pytest.mark.parametrize("path", ["../../escape", "/escape", "a/../../b", "x\0y"])
@pytest.mark.parametrize("keep_directories", ["none", "full"])
async def test_paths_that_escape_are_refused(
    yard: Yard, tmp_path: Path, path: str, keep_directories: str
) -> None:
    wanted = Input(name="data", uris=["datum://x"], keep_directories=keep_directories)
    wanted.files.add(uri="datum://x", path=path, sha256=yard.store.put(b"x"))

    with pytest.raises(Unavailable, match="is refused"):
        await fetch(yard, tmp_path, wanted)


@pytest.mark.parametrize("name", ["..", "a/b", "", "."])
async def test_input_names_are_names_of_folders(yard: Yard, tmp_path: Path, name: str) -> None:
    with pytest.raises(Unavailable, match="cannot be the name of a folder"):
        await fetch(yard, tmp_path, Input(name=name))
