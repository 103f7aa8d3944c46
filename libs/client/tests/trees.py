"""Folders of code for the tests of snapshots."""

from __future__ import annotations

import subprocess
from pathlib import Path

from runyard_client.snapshot import Snapshot


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def write(root: Path, path: str, text: str = "x\n") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def paths(snapshot: Snapshot) -> list[str]:
    return [entry.path for entry in snapshot.entries]
