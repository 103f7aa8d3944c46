"""A stranger, in an empty folder, runs a run again from its record and gets the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.yard import TINY, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180), pytest.mark.xdist_group("yard")]


def test_a_run_is_reproduced_from_its_record_alone(yard: Yard, tmp_path: Path) -> None:
    theirs, empty = tmp_path / "again", tmp_path / "empty"
    shutil.copytree(TINY, theirs)
    (theirs / "never-committed.txt").write_text("part of the code all the same\n")
    (theirs / "words.txt").write_text("one two\n")
    empty.mkdir()
    run = ("run", "count", "--executor", "process", "--input", "words=words.txt", "--steps", "2", "--follow")
    yard.cli(*run, folder=theirs)
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    shutil.rmtree(theirs)

    done = yard.cli("reproduce", "again#1", "--output", "json", folder=empty)
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict["reproduced"] is True
    assert [verdict[each]["run"] for each in ("first", "second")] == ["again#1", "again#2"]
    assert verdict["differences"] == []

    yard.cli("code", "again#2", "-d", "code", folder=empty)
    assert {path.name: path.read_bytes() for path in (empty / "code").iterdir()} == before
