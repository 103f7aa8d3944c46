"""The line of progress: on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from runyard_cli import transfer
from runyard_cli.hashing import file_sha256
from runyard_cli.transfer import Progress

MIB = 1 << 20


class Stderr(io.StringIO):
    """Standard error, a terminal or not."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    @property
    def lines(self) -> list[str]:
        return [line for line in self.getvalue().split("\r\x1b[K") if line]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_SHOW_EVERY_SECONDS", -1.0)


def test_what_is_hashed_is_shown_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(is_terminal=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    progress = Progress("a.bin", 4 * MIB)
    for _ in range(4):
        progress.add_hashed(MIB)
    progress.add(2 * MIB)
    progress.close()

    assert stderr.lines == [
        "a.bin: 0 B of 4.0 MiB, 1.0 MiB hashed",
        "a.bin: 0 B of 4.0 MiB, 2.0 MiB hashed",
        "a.bin: 0 B of 4.0 MiB, 3.0 MiB hashed",
        "a.bin: 0 B of 4.0 MiB",
        "a.bin: 2.0 MiB of 4.0 MiB",
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_file_that_is_hashed_shows_how_far(
    is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(2 * MIB))
    stderr = Stderr(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stderr", stderr)

    sha256 = file_sha256(file)

    *shown, said = stderr.lines
    assert said == f"{file} has SHA-256 {sha256}\n"
    assert all(line.startswith("hashing a.bin: ") for line in shown)
    assert shown[-1:] == (["hashing a.bin: 2.0 MiB of 2.0 MiB"] if is_terminal else [])
