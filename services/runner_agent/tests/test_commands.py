"""What a person types on a GPU machine is done to its end, whoever reads what it says."""

from __future__ import annotations

import os
import sys

import pytest

from runyard_agent.__main__ import main

BY_LINE, IN_ONE = 1, -1


def exit_code_unread(word: str, buffering: int) -> object:
    """Give what a command ends with when nobody reads its standard output."""
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.MonkeyPatch.context() as patch, open(writing, "w", buffering, encoding="utf-8") as unread:
        patch.setattr(sys, "stdout", unread)
        try:
            return main([word])
        except SystemExit as ended:
            return ended.code


@pytest.mark.parametrize("buffering", [BY_LINE, IN_ONE])
@pytest.mark.parametrize("word", ["unit", "--help"])
def test_a_pipe_that_is_closed_early_is_no_failure(word: str, buffering: int) -> None:
    assert exit_code_unread(word, buffering) == 0


def test_closed_standard_output_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
