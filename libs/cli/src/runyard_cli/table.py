"""Tables that fit 80 columns on a terminal and are cut nowhere in a pipe."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from runyard_cli.output import Style, is_terminal, safe, say, styled

_GAP = "  "
_LEAST_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with its looks."""

    text: str
    style: Style = Style.PLAIN


Row = Sequence[str | Cell]


def say_table(headings: Sequence[str], rows: Sequence[Row], *, right: Sequence[int] = ()) -> None:
    """Write a table.

    Args:
        headings: names of the columns. A last column that is too wide is cut on a terminal.
        rows: values; control characters in them are replaced.
        right: indices of columns aligned to the right (numbers).
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max(width_of(heading), *(width_of(row[index].text) for row in cells)) if cells else width_of(heading)
        for index, heading in enumerate(headings)
    ]
    if is_terminal():
        _fit(widths, shutil.get_terminal_size().columns)
    for row in [[Cell(heading, Style.FAINT) for heading in headings], *cells]:
        parts = []
        for index, cell in enumerate(row):
            text = cut(cell.text, widths[index])
            padding = " " * (widths[index] - width_of(text))
            shown = styled(text, cell.style)
            parts.append(padding + shown if index in right else shown + padding)
        say(_GAP.join(parts).rstrip())


def width_of(text: str) -> int:
    """Count the terminal columns of a text."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.combining(char) != 0 for char in text)
    return len(text) + wide - marks


def cut(text: str, width: int) -> str:
    """Shorten a text to a number of columns, with "…" at its end."""
    if width_of(text) <= width:
        return text
    left = width - 1
    for index, char in enumerate(text):
        left -= width_of(char)
        if left < 0:
            return text[:index] + "…"
    return text + "…"


def _cell(value: str | Cell) -> Cell:
    cell = value if isinstance(value, Cell) else Cell(value)
    return Cell(safe(cell.text), cell.style)


def _fit(widths: list[int], columns: int) -> None:
    """Take what is too much from the last column, then from the widest others."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - columns
    order = [len(widths) - 1, *sorted(range(len(widths) - 1), key=lambda index: -widths[index])]
    for index in order:
        taken = min(excess, max(0, widths[index] - _LEAST_WIDTH))
        if taken > 0:
            widths[index] -= taken
            excess -= taken
