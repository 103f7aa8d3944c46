"""What tests share that work as somebody else."""

from __future__ import annotations

import stat
from pathlib import Path


def let_others_in(folder: Path) -> None:
    """Let every user of the machine reach a test's folder, which pytest has closed to them.

    Nothing is taken from anybody: above them may be ``/tmp``, which everybody writes into.
    """
    for each in (folder, *folder.parents[:3]):
        mode = stat.S_IMODE(each.stat().st_mode)
        if mode & 0o055 != 0o055:
            each.chmod(mode | 0o055)
