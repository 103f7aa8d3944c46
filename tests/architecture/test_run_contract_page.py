"""The page of the run contract names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES_LEAST = 100


def test_every_test_that_the_run_contract_names_is_there() -> None:
    page = (ROOT / "docs/run-contract.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", page))
    assert len(named) >= NAMES_LEAST
    files = [*ROOT.glob("libs/*/tests/test_*.py"), *ROOT.glob("services/*/tests/test_*.py")]
    files += ROOT.glob("tests/*/test_*.py")
    texts = (path.read_text(encoding="utf-8") for path in files)
    there = {name for text in texts for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)}
    assert named <= there, named - there
