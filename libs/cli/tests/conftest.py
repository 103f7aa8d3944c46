from __future__ import annotations

from pathlib import Path

import pytest

from runyard_cli import output

from .imported import Terminal, export_of


@pytest.fixture(autouse=True)
def words_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of the command line runs one command: what an earlier test chose must not stay."""
    monkeypatch.setattr(output._Mode, "is_json", False)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RUNYARD_OUTPUT", raising=False)
    monkeypatch.delenv("RUNYARD_READER_DATABASE_URL", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    return Terminal(monkeypatch, capsys)


@pytest.fixture
def terminal(empty: Terminal, tmp_path: Path) -> Terminal:
    empty.run("import", str(export_of(tmp_path / "export")))
    return empty
