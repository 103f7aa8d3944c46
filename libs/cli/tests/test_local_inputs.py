"""Which files of this machine an input means, and where they lie in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runyard.artifact.v1.types_pb2 import Artifact
from runyard.run.v1.types_pb2 import Input, InputFile
from runyard_cli import local_inputs
from runyard_cli.local_inputs import LocalInput, find_local, place, require_room, uri_of, without_own


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("lots/a.csv", "lots/deep/b.csv", "lots/deep/c.txt", "one.csv", "odd[1].csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "below"),
    [
        ("one.csv", ["one.csv"]),
        ("./odd[1].csv", ["odd[1].csv"]),
        ("lots", ["a.csv", "deep/b.csv", "deep/c.txt"]),
        ("./lots/", ["a.csv", "deep/b.csv", "deep/c.txt"]),
        ("lots/*.csv", ["a.csv"]),
        ("lots/**/*.csv", ["a.csv", "deep/b.csv"]),
        ("l*/deep/?.csv", ["lots/deep/b.csv"]),
    ],
)
def test_a_file_a_folder_and_a_pattern_mean_files(folder: Path, source: str, below: list[str]) -> None:
    found = find_local(source)

    assert [each for _, each in found.files] == below
    assert all(path.is_file() for path, _ in found.files)


def test_a_whole_path_may_hold_a_pattern(folder: Path) -> None:
    assert [below for _, below in find_local(f"{folder}/lots/**").files] == [
        "a.csv",
        "deep/b.csv",
        "deep/c.txt",
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [("none", "neither a file here nor a URI"), ("lots/*.nope", "means no file"), ("empty", "means no file")],
)
def test_what_means_no_file_is_said(folder: Path, source: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        find_local(source)


def test_too_many_files_are_refused_before_any_is_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lots, one = find_local("lots"), find_local("one.csv")
    needed = lots.record_bytes + one.record_bytes
    monkeypatch.setattr(local_inputs, "RECORD_BYTES_MAX", needed)
    require_room([one, lots])
    monkeypatch.setattr(local_inputs, "RECORD_BYTES_MAX", needed - 1)
    with pytest.raises(ValueError, match=rf"'lots' means 3 files, .* take {needed} bytes"):
        require_room([one, lots])


def test_what_files_take_of_a_run_is_not_guessed_too_low(folder: Path) -> None:
    lots = find_local("lots")
    uploaded = {
        path: Artifact(sha256=f"{number}" * 64, size_bytes=1 << 40)
        for number, (path, _) in enumerate(lots.files)
    }
    one = Input(name="data", uris=map(uri_of, uploaded.values()), keep_directories="full")
    place(one, [lots], uploaded)
    assert 0 <= lots.record_bytes - one.ByteSize() < 10 * len(one.files)


def test_files_that_were_just_uploaded_are_not_asked_for_again(folder: Path) -> None:
    local = find_local("one.csv")
    uploaded = {path: Artifact(sha256="a" * 64) for path, _ in local.files}
    own, other, typed = f"datum://{'a' * 64}", "datum://best", f"datum://{'b' * 64}"
    one = Input(name="data", uris=[own, other, typed])
    assert list(without_own(one, [local, other, typed], uploaded).uris) == [other, typed]
    assert list(without_own(one, [local, own], uploaded).uris) == [own, other, typed]
    one.filename = "new.csv"
    assert without_own(one, [local], uploaded) == one


def test_a_link_to_a_folder_above_does_not_go_round(folder: Path) -> None:
    os.symlink("..", folder / "lots/up")
    assert len(find_local("lots").files) == 3


@pytest.mark.parametrize(
    ("keeps", "paths"), [("none", ["a.csv", "b.csv"]), ("suffix", ["a.csv", "deep/b.csv"])]
)
def test_files_with_the_same_bytes_keep_their_own_names(keeps: str, paths: list[str]) -> None:
    local = LocalInput("lots", ((Path("lots/a.csv"), "a.csv"), (Path("lots/deep/b.csv"), "deep/b.csv")))
    artifact = Artifact(sha256="a" * 64, size_bytes=3, name="known/by/another.name")
    uri, other = f"datum://{'a' * 64}", InputFile(uri="https://example.com/x", path="x")
    one = Input(name="data", keep_directories=keeps, files=[other, InputFile(uri=uri, path="another.name")])

    place(one, ["https://example.com/x", local], {path: artifact for path, _ in local.files})

    assert [file.path for file in one.files] == ["x", *paths]
    assert {file.sha256 for file in one.files[1:]} == {"a" * 64}


def test_a_file_that_is_renamed_keeps_its_new_name() -> None:
    uri = f"datum://{'a' * 64}"
    one = Input(name="data", filename="new.csv", files=[InputFile(uri=uri, path="new.csv")])

    place(one, [LocalInput("a.csv", ((Path("a.csv"), "a.csv"),))], {Path("a.csv"): Artifact(sha256="a" * 64)})

    assert [file.path for file in one.files] == ["new.csv"]
