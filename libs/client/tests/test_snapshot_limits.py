from __future__ import annotations

import os
from pathlib import Path

import pytest

from runyard_client import snapshot as snapshot_module
from runyard_client.errors import LocalError
from runyard_client.git import without_credentials
from runyard_client.snapshot import take_snapshot

from .trees import paths, write

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_git")]


def test_too_many_files_say_what_to_ignore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "FILE_COUNT_MAX", 4)
    for index in range(5):
        write(tmp_path, f"images/{index}.png")
    write(tmp_path, "src/train.py")
    most = r"images/ \(5 files\), src/ \(1 file\)"
    with pytest.raises(LocalError, match=rf"6 files of code, at most 4: .*{most}") as caught:
        take_snapshot(tmp_path)
    assert caught.value.reason == "TOO_MANY_FILES"


def test_too_large_a_file_says_what_to_do(tmp_path: Path) -> None:
    with write(tmp_path, "weights.bin").open("r+b") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(LocalError, match=r"weights.bin: 1.0 GiB.*\.vhignore.*runyard put") as caught:
        take_snapshot(tmp_path)
    assert caught.value.reason == "FILE_TOO_LARGE"


def test_too_large_a_tree_names_the_largest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "TREE_BYTES_MAX", 10)
    write(tmp_path, "a", "123456")
    write(tmp_path, "b", "1234567")
    with pytest.raises(LocalError, match="the largest is b") as caught:
        take_snapshot(tmp_path)
    assert caught.value.reason == "TREE_TOO_LARGE"


def test_changes_too_large_for_a_patch_are_said_and_still_recorded(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_module, "PATCH_SOURCE_BYTES_MAX", 10)
    write(repository, "big.py", "x" * 100)
    taken = take_snapshot(repository)
    assert taken.code.dirty
    assert taken.code.patch_sha256 == ""
    assert "big.py" in paths(taken)
    assert "no patch was made" in taken.warnings[0]


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")).touch()
    with pytest.raises(LocalError, match="not valid UTF-8") as caught:
        take_snapshot(tmp_path)
    assert caught.value.reason == "BAD_PATH"


def test_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        take_snapshot(tmp_path)
    assert caught.value.reason == "NO_FILES"
    with pytest.raises(LocalError) as caught:
        take_snapshot(tmp_path / "nowhere")
    assert caught.value.reason == "NOT_A_DIRECTORY"


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://alice:secret@example.org/x.git", "https://example.org/x.git"),
        ("https://token@example.org:8443/x.git", "https://example.org:8443/x.git"),
        ("ssh://git:secret@example.org/x.git", "ssh://git@example.org/x.git"),
        ("git@example.org:team/x.git", "git@example.org:team/x.git"),
        ("https://example.org/x.git", "https://example.org/x.git"),
        ("/srv/git/x.git", "/srv/git/x.git"),
        ("", ""),
    ],
)
def test_credentials_never_leave_in_a_remote_url(url: str, clean: str) -> None:
    assert without_credentials(url) == clean
