"""Gives each of several pytest processes its share of the test files.

The quick tests spend half of their time on importing and rewriting test files, and every worker of xdist
does that for all of them. Processes with ``--share=1/2`` and ``--share=2/2`` read half of the files each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

WHOLE_FILE_MARK = re.compile(
    r"^pytestmark = (?:\[[^\]]*|[^\[\n]*)\bmark\.(system|engines|docker|faults)\b", re.MULTILINE
)

PROPERTY_WEIGHT = 5_000
"""In characters of other tests: a property is tried with 30 examples."""


@dataclass(frozen=True, slots=True)
class Share:
    """The ``number``-th of ``count`` shares, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``1/2``.

        Raises:
            pytest.UsageError: it is no share.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise pytest.UsageError(f"--share={text}: want NUMBER/COUNT such as 1/2")
        return cls(int(found[1]), int(found[2]))


def skips_whole_file(path: Path, expression: str) -> bool:
    """Say whether a file marks all its tests with what ``-m expression`` leaves out."""
    if path.suffix != ".py" or "not " not in expression or "(" in expression:
        return False
    mark = WHOLE_FILE_MARK.search(path.read_text(encoding="utf-8"))
    return mark is not None and f"not {mark[1]}" in expression


def files_of(share: Share, folders: Iterable[Path], expression: str) -> frozenset[Path]:
    """Choose the files of one share: whole folders (neighbours import the same) of about equal weight."""
    weight_of: dict[Path, int] = {}
    files = sorted(path for folder in folders for path in folder.rglob("test_*.py"))
    kept = [path for path in files if not skips_whole_file(path, expression)]
    for path in kept:
        weight_of[path.parent] = weight_of.get(path.parent, 0) + _weight(path)
    loads = [0] * share.count
    owners: dict[Path, int] = {}
    for folder in sorted(weight_of, key=lambda folder: (-weight_of[folder], folder)):
        owners[folder] = loads.index(min(loads))
        loads[owners[folder]] += weight_of[folder]
    return frozenset(path for path in kept if owners[path.parent] == share.number - 1)


def _weight(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    return len(text) + PROPERTY_WEIGHT * text.count("\n@given(")
