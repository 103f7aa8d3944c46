"""What a shell completes, asked as bash asks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from runyard_cli.main import _BUILT_IN, YardGroup, runyard

PAGE = Path(__file__).parents[1] / "README.md"
STEP = """
- step:
    name: train
    image: python:3.11
    command: python train.py {parameters}
    parameters:
      - {name: epochs, type: integer, default: 1}
"""


def completed(*words: str) -> list[str]:
    """Give what the last word may become."""
    asked = BashComplete(runyard, {}, "runyard", "_RUNYARD_COMPLETE")
    return [item.value for item in asked.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (("mod",), ["models"]),
        (("history", "what"), ["what-if"]),
        (("models", "--proj"), ["--project"]),
        (("models", "--output", ""), ["human", "json"]),
    ],
)
def test_commands_options_and_their_values_are_completed(
    words: tuple[str, ...], completions: list[str]
) -> None:
    assert completed(*words) == completions


def test_commands_are_named_without_an_import_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(YardGroup, "get_command", None)
    assert [completed("mod"), completed("--v")] == [["models"], ["--version"]]
    assert len(completed("")) >= len(_BUILT_IN)


def test_parameters_of_a_step_are_completed_as_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "valohai.yaml").write_text(STEP)
    monkeypatch.chdir(tmp_path)
    assert completed("run", "train", "--ep") == ["--epochs"]


def test_steps_of_the_file_here_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed("run", "") == []
    (tmp_path / "valohai.yaml").write_text(STEP + STEP.replace("train", "test"))
    assert completed("run", "") == ["train", "test"]
    assert completed("run", "--gpus", "1", "te") == ["test"]
    (tmp_path / "valohai.yaml").write_text("- step: [")
    assert completed("run", "t") == []
    assert capsys.readouterr() == ("", "")


def test_where_there_is_no_step_nothing_is_written_into_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed("run", "train", "--proj") == ["--project"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.system
def test_bash_completes_a_line_after_what_the_page_says(tmp_path: Path) -> None:
    program = tmp_path / "runyard"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m runyard_cli "$@"\n')
    program.chmod(0o700)
    [line] = re.findall(r"^\$ (eval .*bash_source.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    # What Tab does, without a terminal: the words of the line, then the function that bash calls.
    script = f"""
        {line}
        COMP_WORDS=(runyard models --proj) COMP_CWORD=2
        [[ $(complete -p runyard) =~ -F\\ ([^ ]+) ]]
        ${{BASH_REMATCH[1]}} runyard
        echo "${{COMPREPLY[@]}}"
    """
    surroundings = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=surroundings, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("--project\n", "")
