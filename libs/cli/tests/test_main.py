from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runyard_cli import output
from runyard_cli.main import main

STEP = """
- step:
    name: train
    image: x
    command: x
    parameters: [{name: epochs, type: integer}]
"""


@dataclass(frozen=True)
class Done:
    """What a command did."""

    exit_code: int
    stdout: str
    stderr: str


Runner = Callable[..., Done]


@pytest.fixture
def runyard(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Runner]:
    """Run the command line in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RUNYARD_HOME", str(folder / "home"))
    for variable in ("RUNYARD_OUTPUT", "RUNYARD_TOKEN", "RUNYARD_SERVER"):
        monkeypatch.delenv(variable, raising=False)

    def run(*args: str, stdin: str | None = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["runyard", *args])
        monkeypatch.setattr(sys, "stdin", None if stdin is None else io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    yield run
    output._Mode.is_json = False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "valohai.yaml").write_text(STEP)
    return tmp_path


def with_context(folder: Path, address: str) -> None:
    home = folder / "home"
    home.mkdir()
    services = ("scheduler", "artifact", "metrics", "cost", "lineage")
    content = {"addresses": dict.fromkeys(services, address), "token": "t"}
    (home / "context.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("args", "exit_code", "reason"),
    [
        (("run", "trian"), 2, "UNKNOWN_STEP"),
        (("run", "train", "--epochs", "x"), 2, "PARAMETER_WRONG_TYPE"),
        (("run", "train"), 2, "MISSING_PARAMETER"),
        (("run", "train", "--epoch", "1"), 2, "WRONG_USAGE"),
        (("ps", "--limit", "0"), 2, "WRONG_USAGE"),
        (("run", "train", "--epochs", "1", "--priority", "5000000000"), 2, "WRONG_USAGE"),
        (("logs", "1", "--attempt", "5000000000"), 2, "WRONG_USAGE"),
        (("logs", "1", "--tail", "9" * 20), 2, "WRONG_USAGE"),
        (("history", "as-of", "now", "--skip", "9" * 20), 2, "WRONG_USAGE"),
        (("history", "diff", "--from", "1", "--skip", "9" * 20), 2, "WRONG_USAGE"),
        (("history", "dead-letters", "show", "cost", "9" * 20), 2, "WRONG_USAGE"),
        (("nonsense",), 2, "WRONG_USAGE"),
        (("trace", "no-such-file"), 2, "FILE_UNREADABLE"),
        (("ps",), 4, "NO_CONTEXT"),
        (("history", "erase", "user:alice"), 3, "NOT_CONFIRMED"),
    ],
)
def test_error_is_one_or_two_lines_with_its_reason(
    runyard: Runner, args: tuple[str, ...], exit_code: int, reason: str
) -> None:
    done = runyard(*args)
    lines = done.stderr.splitlines()
    assert done.exit_code == exit_code, done.stderr
    assert lines[0].startswith("Error: ")
    assert lines[0].endswith(f"[{reason}]")
    assert len(lines) <= 2
    assert done.stdout == ""


@pytest.mark.parametrize("stdin", ["y\n", None])
def test_what_nobody_can_be_asked_can_be_said_beforehand(runyard: Runner, stdin: str | None) -> None:
    done = runyard("history", "erase", "Alice A", stdin=stdin)
    sys.stdin.close()
    assert (done.exit_code, done.stderr.splitlines()) == (
        3,
        [
            "Error: Alice A would be erased for ever, and there is no terminal to ask on [NOT_CONFIRMED]",
            "`runyard history erase 'Alice A' --yes` does it without asking.",
        ],
    )
    assert runyard("history", "erase", "Alice A", "--yes").stderr.endswith("[NO_CONTEXT]\n")


@pytest.mark.parametrize("group", [(), ("price",), ("history",), ("history", "dead-letters")])
def test_a_group_alone_shows_its_help_as_it_is(runyard: Runner, group: tuple[str, ...]) -> None:
    done = runyard(*group)
    assert done.exit_code == 2
    assert done.stderr == runyard(*group, "--help").stdout


def test_a_sentence_of_several_lines_is_one_line(runyard: Runner) -> None:
    done = runyard("price", "set", "1")
    assert "Missing option '--per'. Choose from: gpu-hour, node-hour [WRONG_USAGE]" in done.stderr


@pytest.mark.system
def test_service_that_does_not_answer_gives_4_and_says_what_to_do(folder: Path, runyard: Runner) -> None:
    with_context(folder, "127.0.0.1:1")
    done = runyard("ps")
    assert done.exit_code == 4
    assert done.stderr.splitlines() == [
        "Error: scheduler at 127.0.0.1:1 does not answer [UNAVAILABLE]",
        "Is the yard up? `runyard status` shows each process, `runyard up` starts it.",
    ]


def test_error_is_json_where_json_was_asked_for(runyard: Runner) -> None:
    done = runyard("ps", "--output", "json")
    assert json.loads(done.stderr)["error"]["reason"] == "NO_CONTEXT"
    assert done.exit_code == 4


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("run", "trian", "--output", "json"), "UNKNOWN_STEP"),
        (("run", "--output=json", "train", "--epoch", "1"), "WRONG_USAGE"),
        (("ps", "--nope", "--output", "json"), "WRONG_USAGE"),
        (("nonsense", "--output", "json"), "WRONG_USAGE"),
    ],
)
def test_wrong_words_beside_the_wish_for_json_are_told_in_it(
    runyard: Runner, args: tuple[str, ...], reason: str
) -> None:
    done = runyard(*args)
    assert json.loads(done.stderr)["error"]["reason"] == reason
    assert done.exit_code == 2


def test_wrong_words_are_told_as_the_environment_says(
    runyard: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNYARD_OUTPUT", "json")
    assert json.loads(runyard("ps", "--nope").stderr)["error"]["reason"] == "WRONG_USAGE"
    assert runyard("ps", "--nope", "--output", "human").stderr.startswith("Error: ")


def test_what_comes_after_two_dashes_is_for_another_program(runyard: Runner) -> None:
    done = runyard("exec", "--nope", "latest", "--", "jc", "--output", "json")
    assert done.stderr.startswith("Error: ")


def test_help_lists_every_command_and_its_place(runyard: Runner) -> None:
    done = runyard("--help")
    assert done.exit_code == 0
    for name in (
        "lint",
        "run",
        "ps",
        "show",
        "logs",
        "stop",
        "outputs",
        "get",
        "put",
        "trace",
        "cost",
        "history",
    ):
        assert f"\n  {name} " in done.stdout


def test_context_is_set_from_standard_input_and_shown_without_its_token(
    folder: Path, runyard: Runner
) -> None:
    done = runyard("context", "set", "yard.example.org:443", stdin="s3cret\n")
    assert (done.exit_code, "without TLS: yard.example.org:443" in done.stderr) == (0, True)
    shown = runyard("context")
    assert "yard.example.org:443" in shown.stdout
    assert "s3cret" not in shown.stdout + shown.stderr
    assert json.loads((folder / "home" / "context.json").read_text())["token"] == "s3cret"


def test_entering_with_no_access_token_changes_nothing(folder: Path, runyard: Runner) -> None:
    for stdin, reason in (("", "WRONG_USAGE"), ("hunter2\n", "BAD_TOKEN"), ("rya1.AAAA\n", "BAD_TOKEN")):
        done = runyard("context", "enter", stdin=stdin)
        assert (done.exit_code, reason in done.stderr) == (2, True)
    assert not (folder / "home").exists()


def test_the_context_of_a_yard_here_is_not_replaced(folder: Path, runyard: Runner) -> None:
    with_context(folder, "127.0.0.1:1")
    (folder / "home" / "credentials.json").touch()
    before = (folder / "home" / "context.json").read_bytes()
    done = runyard("context", "enter", stdin="rya1.AAAA\n")
    assert (done.exit_code, "YARD_OF_ITS_OWN" in done.stderr) == (3, True)
    assert (folder / "home" / "context.json").read_bytes() == before


def test_a_token_of_the_environment_wins_over_the_file(
    folder: Path, runyard: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_context(folder, "127.0.0.1:1")
    monkeypatch.setenv("RUNYARD_TOKEN", "hunter2")
    done = runyard("ps")
    assert (done.exit_code, "BAD_TOKEN" in done.stderr) == (2, True)


@pytest.mark.system
def test_command_that_people_type_often_imports_little() -> None:
    # Measured: each of these would add 50 to 250 ms to every `runyard ps`.
    heavy = {"rich", "typer", "pydantic", "valohai_yaml", "jsonschema", "yaml", "runyard_runspec"}
    heavy |= {"importlib.metadata", "tempfile"}
    code = "import runyard_cli.main, runyard_cli.commands.ps, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy.isdisjoint(done.stdout.split())
    assert "grpc" in done.stdout.split()


@pytest.mark.system
def test_module_runs_like_the_script() -> None:
    command = [sys.executable, "-m", "runyard_cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("runyard, version ")


@pytest.mark.system
def test_a_pipe_that_is_closed_early_is_no_failure() -> None:
    # Under the limit of a pipe all is written at the end; above it, in the middle of the command.
    code = (
        "import click; from runyard_cli.main import main, runyard\n"
        "talk = lambda lines: [print('x' * 99) for _ in range(lines)]\n"
        "options = [click.Argument(['lines'], type=int)]\n"
        "runyard.get_command = lambda *_: click.Command('talk', callback=talk, params=options)\n"
        "main()"
    )
    for lines in (10, 100_000):
        command = [sys.executable, "-c", code, "talk", str(lines)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as talking:
            assert talking.stdout is not None
            talking.stdout.close()
            _, said = talking.communicate(timeout=30)
        assert (talking.returncode, said) == (0, "")


@pytest.mark.system
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(folder: Path, closed: str) -> None:
    environment = {**os.environ, "RUNYARD_HOME": str(folder / "home")}
    for words, exit_code in (("ps", 4), ("--version", 0)):
        line = f"exec {sys.executable} -m runyard_cli {words} {closed}"
        done = subprocess.run(["/bin/sh", "-c", line], env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert done.returncode == exit_code, done.stderr


@pytest.mark.system
def test_a_full_disk_is_no_mistake_of_the_program() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "runyard_cli", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "Error: No space left on device [FILE_UNUSABLE]"


def test_a_file_that_cannot_be_used_is_named(runyard: Runner, folder: Path) -> None:
    (folder / "home").write_text("a file where the folder would be")
    done = runyard("context", "set", "127.0.0.1:1", stdin="token\n")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == f"Error: {folder / 'home'}: File exists [FILE_UNUSABLE]"


def test_a_folder_that_is_gone_is_no_mistake_of_the_program(
    runyard: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = runyard("lint")
    monkeypatch.chdir(folder)
    assert (done.exit_code, done.stderr.splitlines()) == (
        2,
        ["Error: the folder in which this was called is gone [FILE_UNUSABLE]", "Go to one that is there."],
    )
