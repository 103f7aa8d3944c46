"""Programs that pages show are run as they are printed, and print what the pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.e2e.yard import Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120), pytest.mark.xdist_group("yard")]

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str) -> list[str]:
    """Give the code blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def printed_by(program: str, yard: Yard, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        env={**os.environ, "RUNYARD_HOME": str(yard.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_on_programs_prints_what_it_says(yard: Yard, tmp_path: Path) -> None:
    page = "docs/how-to/call-it-from-code.md"
    assert printed_by("".join(blocks(page, "python")), yard, tmp_path) == blocks(page, "text")[0]


def test_the_example_of_the_client_uploads_a_file(yard: Yard, tmp_path: Path) -> None:
    (program,) = blocks("libs/client/README.md", "python")
    (tmp_path / "train.npz").write_bytes(b"data")
    called = textwrap.dedent(program) + "\nimport asyncio\nasyncio.run(example())\n"
    assert re.fullmatch(r"\d+ datum://3a6eb0790f39ac87.*\n", printed_by(called, yard, tmp_path))
