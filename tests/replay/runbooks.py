"""Runbooks as programs: the commands of a page, run against the recorded history that it is about.

``python -m tests.replay.runbooks`` writes what the commands print into the pages; a test holds them to it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from runyard_cli import output
from runyard_cli.main import main as run_cli
from runyard_replay.exports import read_manifest
from runyard_replay.imported import import_log

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/runbooks"
HISTORIES = Path(__file__).parent / "histories"

_BLOCK = re.compile(r"^```console\n\$ (?P<command>[^\n]+)\n(?P<printed>.*?)^```$", re.DOTALL | re.MULTILINE)
_HISTORY = re.compile(r"tests/replay/histories/(?P<name>[a-z-]+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One question of a runbook: a command, and what the page says that it prints."""

    command: str
    printed: str


def steps_of(page: str) -> list[Step]:
    """Give the commands of a page, in order."""
    return [Step(found["command"], found["printed"]) for found in _BLOCK.finditer(page)]


def history_of(page: str) -> Path:
    """Give the recorded history that a page is about: the one that it names first."""
    found = _HISTORY.search(page)
    if found is None:
        raise ValueError("the page names no history")
    return HISTORIES / found["name"]


@contextlib.contextmanager
def imported(history: Path) -> Iterator[Path]:
    """Import a recorded history into a home of its own while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        import_log(history, read_manifest(history), home)
        yield home


def printed_by(command: str, home: Path) -> str:
    """Run a command line of a page; gives what it printed, and the exit code if it failed."""
    program, *words = shlex.split(command)
    if program != "runyard" or words[0] not in ("history", "trace", "impact"):
        raise ValueError(f"a runbook runs runyard history, trace and impact, not {command!r}")
    out = io.StringIO()
    code: object = 0
    # The same answer wherever and whenever it is asked: no colours, no zone, no width of a terminal.
    variables = {"RUNYARD_HOME": str(home), "TZ": "UTC", "NO_COLOR": "1"}
    with (
        contextlib.chdir(ROOT),
        patch.dict(os.environ, variables),
        patch.object(sys, "argv", ["runyard", *words]),
    ):
        time.tzset()
        output._Mode.is_json = False
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                run_cli()
        except SystemExit as ended:
            code = ended.code
    time.tzset()
    output._Mode.is_json = False
    text = "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())
    return text if code in (0, None) else f"{text}(exit code {code})\n"


def written_again(page: str) -> str:
    """Give a page with what its commands print now."""
    with imported(history_of(page)) as home:
        return _BLOCK.sub(
            lambda found: f"```console\n$ {found['command']}\n{printed_by(found['command'], home)}```",
            page,
        )


def main() -> None:
    """Write every page again."""
    for path in sorted(PAGES.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        if steps_of(page):
            path.write_text(written_again(page), encoding="utf-8")
            print(f"{path.name}: {len(steps_of(page))} commands")


if __name__ == "__main__":
    main()
