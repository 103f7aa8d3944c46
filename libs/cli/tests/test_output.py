from __future__ import annotations

import time

import pytest

from runyard_cli import output, table
from runyard_cli.output import Style, safe, styled
from runyard_cli.table import Cell, cut, say_table, width_of


def test_pipe_gets_whole_lines_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("NAME", "SIZE"), [("a" * 100, "1"), (Cell("b", Style.BAD), "22")], right=(1,))
    assert capsys.readouterr().out.splitlines() == [
        f"{'NAME':<100}  SIZE",
        f"{'a' * 100}     1",
        f"{'b':<100}    22",
    ]


def test_terminal_gets_lines_that_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    say_table(("NAME", "STATE", "WHY"), [("digits#1", "failed", "x" * 80), ("n" * 30, "ok", "")])
    lines = capsys.readouterr().out.splitlines()
    assert all(width_of(line) <= 40 for line in lines)
    assert "…" in lines[1]


def test_control_characters_of_others_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("NAME",), [("a\x1b[31m\nb",)])
    assert "\x1b" not in capsys.readouterr().out
    assert safe("a\tb\x07é") == "a\tb\ufffdé"


def test_wide_characters_count_twice_and_marks_not_at_all() -> None:
    assert width_of("日本") == 4
    assert width_of("e\u0301") == 1
    assert cut("日本語", 5) == "日本…"
    assert cut("abc", 3) == "abc"
    assert cut("e\u0301e\u0301e\u0301", 2) == "e\u0301…"


def test_a_long_text_is_cut_in_the_time_of_one_look_at_it() -> None:
    began = time.process_time()
    assert cut("ä" * 1_000_000, 100) == "ä" * 99 + "…"
    assert time.process_time() - began < 5


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_turned_off(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert styled("x", Style.BAD) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv(variable, value)
    assert styled("x", Style.BAD) == "x"
