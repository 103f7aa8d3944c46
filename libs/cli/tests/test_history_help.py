"""What every command below ``runyard history`` offers."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from runyard_cli.commands.history import command
from runyard_cli.history.filters import whole_types

from .imported import Terminal


def leaves(group: click.Group, path: str = "history") -> Iterator[tuple[str, click.Command]]:
    for name, each in group.commands.items():
        if isinstance(each, click.Group):
            yield from leaves(each, f"{path} {name}")
        else:
            yield f"{path} {name}", each


LEAVES = dict(leaves(command))


def test_every_command_has_json_and_examples_of_itself() -> None:
    assert len(LEAVES) > 15
    for path, found in LEAVES.items():
        assert "--output" in {option for each in found.params for option in each.opts}, path
        lines = [line.strip() for line in (found.epilog or "").splitlines()]
        examples = [line.rpartition("runyard ")[2] for line in lines[2:]]
        assert examples, path
        assert all(line.startswith(path) for line in examples), path


def test_what_is_cut_is_said(terminal: Terminal) -> None:
    assert len(terminal.run("tail", "--from", "2", "-n", "3").splitlines()) == 3
    assert "only the newest 3 of that time: -n shows more" in terminal.said
    assert len(terminal.run("tail", "-n", "3").splitlines()) == 3
    assert terminal.said == ""
    assert terminal.run("tail", "--actor", "user:nobody") == ""
    assert "no event matches" in terminal.said


def test_a_type_that_no_event_has_is_refused_with_what_may_be_meant() -> None:
    assert whole_types(["run.queued", "runyard.node.", "model"]) == [
        "runyard.run.queued", "runyard.node.", "runyard.model."
    ]  # fmt: skip
    with pytest.raises(click.UsageError, match=r"is run\.finished"):
        whole_types(["run.finishd"])
