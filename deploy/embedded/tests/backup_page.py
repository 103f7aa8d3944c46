"""The page on backups as a person follows it: what it says to type is typed as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "back-up-and-move.md"


class Reader:
    """Somebody who has read the page, in a folder of their own."""

    def __init__(self, login_folder: Path, working_folder: Path, environment: Mapping[str, str]) -> None:
        """Type in a folder; ``~`` is the other one, and the yard is below it."""
        self.folder = working_folder
        (working_folder / "elsewhere").mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        self._environment = {**environment, "HOME": str(login_folder), "PATH": path}

    def type(self, command: str, expect: int = 0) -> str:
        """Run a line in a shell; gives what it said."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == expect, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def follow(self, section: str) -> list[str]:
        """Type all lines of a section; gives what each said."""
        return [self.type(line) for line in lines_of(section)]


def lines_of(section: str) -> list[str]:
    """Give what is to be typed in a section of the page."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\$ (.+)$", text, re.MULTILINE)
    assert found, section
    return found
