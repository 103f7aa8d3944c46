"""Help of every command: it ends with examples of itself, and what they say can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from runyard_cli.main import COMMANDS
from runyard_cli.plugins import load_plugin, plugin_names
from runyard_core.errors import RunyardError

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "docs" / "examples" / "digits"
FILES = ("train.npz", "model.npz", "book.json", "one-line.json", "proof.json", "segment.key.pub")
FOLDERS = ("log-of-november",)
NOT_HERE = ("does not exist", "neither a file", "no step 'count'")
"""What is wrong with lines of pages here alone: their files and projects are elsewhere."""


def commands(path: str, found: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Give a command and all below it, by what a person types."""
    yield path, found
    if isinstance(found, click.Group):
        for name, each in found.commands.items():
            yield from commands(f"{path} {name}", each)


def everything() -> Iterator[tuple[str, click.Command]]:
    for name in (name for section in COMMANDS.values() for name in section):
        yield from commands(name, import_module(f"runyard_cli.commands.{name}").command)
    for name in plugin_names():
        plugin = load_plugin(name)
        assert plugin is not None
        yield from commands(name, plugin)


ALL = dict(everything())


def examples_of(found: click.Command) -> list[str]:
    """Give the command lines of the examples, without what a shell does before and after them."""
    lines = (found.epilog or "").splitlines()[2:]
    return [line.rpartition("runyard ")[2].strip() for line in lines]


def typed(line: str) -> list[str]:
    """Give the words of a line up to what a shell does with them."""
    words: list[str] = []
    for word in shlex.split(re.sub(" +# .*", "", line)):
        if word in {"|", "<", ">"}:
            break
        words.append(word.removesuffix(";"))
        if word.endswith(";"):
            break
    return words


def parse(path: str, words: list[str]) -> None:
    """Read a command line as its command does; refused ones raise."""
    with ALL[path].make_context(path, words[len(path.split()) :]):
        pass


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "valohai.yaml").write_bytes((DIGITS / "valohai.yaml").read_bytes())
    for name in FILES:
        (tmp_path / name).touch()
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNYARD_OUTPUT", raising=False)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("path", ALL)
def test_help_ends_with_examples_that_the_command_understands(path: str) -> None:
    found = ALL[path]
    if isinstance(found, click.Group) and not found.invoke_without_command and not found.epilog:
        # What it can do is said by the commands below it.
        return
    lines = examples_of(found)
    assert lines, path
    for line in lines:
        assert f"{line} ".startswith(f"{path} "), line
        words = typed(line)
        below = " ".join(words[: len(path.split()) + 1])
        parse(below if below in ALL else path, words)


def printed_commands() -> Iterator[tuple[str, str]]:
    """Give every command line of ours that a page shows, without its remark."""
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*/README.md")):
        for line in page.read_text(encoding="utf-8").splitlines():
            found = re.match(r"\$ (?:[A-Z_]+=\S+ )*runyard (.*)$", line)
            if found is not None and "..." not in found[1]:
                yield page.name, found[1]


@pytest.mark.usefixtures("project")
def test_every_command_that_a_page_shows_is_understood() -> None:
    lines = list(printed_commands())
    assert len(lines) > 100
    for page, line in lines:
        words = typed(line)
        paths = [" ".join(words[:count]) for count in (3, 2, 1)]
        path = next((each for each in paths if each in ALL), "")
        assert path, (page, line)
        try:
            parse(path, words)
        except (click.ClickException, RunyardError) as error:
            if not any(each in error.message for each in NOT_HERE):
                raise AssertionError((page, line, error.message)) from error
