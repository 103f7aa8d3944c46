"""The pages that name tests for what they say name tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runyard.run.v1.types_pb2 import CauseCode

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("page", "names_least"), [("run-contract.md", 100), ("causes.md", 15)])
def test_every_test_that_a_page_names_is_there(page: str, names_least: int) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", text))
    assert len(named) >= names_least
    files = [*ROOT.glob("libs/*/tests/test_*.py"), *ROOT.glob("services/*/tests/test_*.py")]
    files += ROOT.glob("tests/*/test_*.py")
    texts = (path.read_text(encoding="utf-8") for path in files)
    there = {name for text in texts for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)}
    assert named <= there, named - there


def test_every_cause_of_an_end_is_explained() -> None:
    page = (ROOT / "docs/causes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z_, ]+) \|", page, re.MULTILINE)
    explained = {code for row in rows for code in row.split(", ")}
    codes = {name.removeprefix("CAUSE_CODE_") for name in CauseCode.DESCRIPTOR.values_by_name}
    assert explained == codes - {"UNSPECIFIED"}
