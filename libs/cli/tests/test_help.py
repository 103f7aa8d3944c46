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

DIGITS = Path(__file__).parents[3] / "docs" / "examples" / "digits"
FILES = ("train.npz", "model.npz", "book.json", "one-line.json", "proof.json", "segment.key.pub")
FOLDERS = ("log-of-november",)


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


def parse(found: click.Command, path: str, line: str) -> None:
    """Read the arguments of a line as its command does; refused ones raise."""
    typed = shlex.split(re.split(" [|<>] ", line)[0])
    with found.make_context(path, typed[len(path.split()) :]):
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
        named = " ".join(line.split()[: len(path.split()) + 1])
        own = ALL.get(named, found)
        parse(own, named if own is not found else path, line)
