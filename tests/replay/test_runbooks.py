"""Every runbook solves its incident: its commands print today what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.replay.runbooks import PAGES, history_of, imported, printed_by, steps_of

pytestmark = pytest.mark.system

RUNBOOKS = sorted(path for path in PAGES.glob("*.md") if path.name != "README.md")


def test_each_recorded_incident_has_a_runbook() -> None:
    told = {history_of(path.read_text(encoding="utf-8")).name for path in RUNBOOKS}
    assert told == {"lost-node", "foreign-gpu", "corrupt-dataset", "wrong-price"}


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_the_commands_of_a_runbook_print_what_the_page_says(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    steps = steps_of(page)
    assert len(steps) >= 4
    with imported(history_of(page)) as home:
        for step in steps:
            assert printed_by(step.command, home) == step.printed, step.command
