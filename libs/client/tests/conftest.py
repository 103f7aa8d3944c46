from __future__ import annotations

import os
from pathlib import Path

import pytest

from .trees import git, write


@pytest.fixture
def own_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Alice")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "alice@example.org")


@pytest.fixture
def repository(own_git: None, tmp_path: Path) -> Path:
    root = tmp_path / "work"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    write(root, "train.py", "print(1)\n")
    write(root, "lib/data.py", "data\n")
    write(root, "run.sh", "#!/bin/sh\n").chmod(0o755)
    write(root, ".gitignore", "ignored/\n*.log\n")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root
