from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_cli.graph import asked_about
from runyard_cli.names import default_project, full_run_name, looks_like_run, slug
from runyard_contracts.ids import is_name


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("12", "digits#12"),
        ("#12", "digits#12"),
        ("#012", "digits#12"),
        ("latest", "digits#latest"),
        ("other#3", "other#3"),
        ("0198c0de", "0198c0de"),
        ("01234567", "01234567"),
    ],
)
def test_short_names_are_of_the_project(name: str, full: str) -> None:
    assert full_run_name(name, "digits") == full


def test_project_is_given_or_of_the_environment_or_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "My Große_Digits!"
    folder.mkdir()
    monkeypatch.delenv("RUNYARD_PROJECT", raising=False)
    assert default_project(None, folder) == "my-groe-digits"
    monkeypatch.setenv("RUNYARD_PROJECT", "team")
    assert default_project(None, folder) == "team"
    assert default_project("given", folder) == "given"


@given(st.text(max_size=100))
def test_every_folder_gives_a_project_that_the_yard_accepts(text: str) -> None:
    assert is_name(slug(text))


def test_a_folder_is_no_file_to_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        asked_about(str(tmp_path), None)
    assert ended.value.code == 2
    assert "is a folder: name one of its files [FILE_UNREADABLE]" in capsys.readouterr().err


def test_only_a_run_has_a_counter() -> None:
    assert looks_like_run("12")
    assert looks_like_run("digits#12")
    assert looks_like_run("latest")
    assert not looks_like_run("digits")
