"""Of spools that were set aside the last one stays, and no more than that."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyard_agent.spool_aside import set_aside


def spool_of(directory: Path, text: str) -> Path:
    directory.mkdir()
    (directory / "00000000000000000001.segment").write_text(text)
    return directory


def texts(parent: Path) -> list[str]:
    return [path.read_text() for path in parent.glob("spool.old-*/*")]


def test_the_last_one_stays_and_those_before_it_go(tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        set_aside(spool_of(tmp_path / "spool", text))
        assert texts(tmp_path) == [text]
        assert not (tmp_path / "spool").exists()


def test_nothing_else_beside_it_goes(tmp_path: Path) -> None:
    others = [spool_of(tmp_path / name, "other") for name in ("spools", "spool-2.old-1", "attempts")]
    set_aside(spool_of(tmp_path / "spool", "one"))
    set_aside(spool_of(tmp_path / "spool", "two"))
    assert all(other.exists() for other in others)


def test_what_cannot_be_removed_holds_up_no_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "spool.old-1").write_text("no folder")
    set_aside(spool_of(tmp_path / "spool", "one"))
    assert texts(tmp_path) == ["one"]
    assert "cannot be removed" in caplog.text
