"""Which group of tests a file belongs to, read from its text: see ``group_scheduling.py``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_GROUP = re.compile(r'xdist_group\("([a-z]+)"\)')


@cache
def group_of(path: Path) -> str:
    """Give the group that a test file names, for all of its tests; empty without one."""
    found = _GROUP.search(path.read_text(encoding="utf-8"))
    return found[1] if found else ""
