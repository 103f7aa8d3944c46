from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from runyard_cli.commands.lint import command as lint_command
from runyard_cli.commands.run import command as run_command
from runyard_cli.step_options import StepCommand, find_step_name, given_values

TEXT = """
- step:
    name: train
    image: x
    command: python train.py {parameters}
    parameters:
      - {name: epochs, type: integer, default: 5, min: 1, max: 100, description: How often.}
      - {name: learning_rate, type: float}
      - {name: fast, type: flag, default: true}
      - {name: layers, type: integer, multiple: repeat, optional: true}
      - {name: name, default: x}
      - {name: title, default: taken by the command}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "valohai.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "home"))
    return tmp_path


def typed(*args: str) -> dict[str, object]:
    """Give the parameter values that a command line has."""
    seen: dict[str, object] = {}

    @click.command(cls=StepCommand)
    @click.argument("step")
    @click.option("--title")
    @click.option("-f", "--follow", is_flag=True)
    @click.pass_context
    def command(context: click.Context, step: str, title: str | None, follow: bool) -> None:
        seen.update(given_values(context))

    result = CliRunner().invoke(command, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen


def test_parameters_of_the_step_are_options(folder: Path) -> None:
    assert typed("train", "--epochs", "7", "--learning_rate=0.1", "--no-fast") == {
        "epochs": "7",
        "learning_rate": "0.1",
        "fast": False,
    }


def test_options_may_come_before_the_step(folder: Path) -> None:
    assert typed("--title", "evaluate", "-f", "train", "--epochs", "7") == {"epochs": "7"}


def test_what_is_not_typed_is_left_to_the_default(folder: Path) -> None:
    assert typed("train") == {}


def test_empty_zero_and_negative_values_are_kept(folder: Path) -> None:
    assert typed("train", "--name", "", "--epochs", "0", "--learning_rate", "-1") == {
        "name": "",
        "epochs": "0",
        "learning_rate": "-1",
    }


def test_repeated_option_gives_a_list(folder: Path) -> None:
    assert typed("train", "--layers", "1", "--layers", "2") == {"layers": ["1", "2"]}


def test_step_is_the_first_word_that_is_no_options_value() -> None:
    options = [click.Option(["--title"]), click.Option(["-f"], is_flag=True)]
    assert find_step_name(options, ["--title", "a", "-f", "train"]) == "train"
    assert find_step_name(options, ["--title=a", "train"]) == "train"
    assert find_step_name(options, ["--help"]) is None


def test_help_shows_the_steps_parameters_and_the_one_whose_name_is_taken(folder: Path) -> None:
    text = CliRunner().invoke(run_command, ["train", "--help"], catch_exceptions=False).output
    assert "--epochs INTEGER" in text
    assert "How often." in text
    assert "[integer, 1 to 100]" in " ".join(text.split())
    assert "--fast / --no-fast" in text
    assert "--param title=VALUE" in text


def test_help_comes_even_when_the_file_is_broken(folder: Path) -> None:
    (folder / "valohai.yaml").write_text("- step: [")
    result = CliRunner().invoke(run_command, ["train", "--help"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "--executor" in result.output
    assert "The parameters of 'train' are not known: valohai.yaml:" in result.output


def test_lint_exits_with_1_only_for_errors(folder: Path) -> None:
    assert CliRunner().invoke(lint_command, []).exit_code == 0
    (folder / "valohai.yaml").write_text(TEXT + "    zebra: 1\n")
    result = CliRunner().invoke(lint_command, [])
    assert result.exit_code == 1
    assert result.output == "valohai.yaml:13: error: step train: unknown key 'zebra': remove it\n"
