"""Where the programs lie that wheels bring along."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from runyard_engines.process import EngineFailed


def program_path(name: str) -> Path:
    """Find a program beside the running interpreter first, then on PATH.

    Raises:
        EngineFailed: it is nowhere.
    """
    # Not resolved: in a virtual environment the interpreter is a link to one that has no programs beside it.
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    found = shutil.which(name)
    if found is None:
        raise EngineFailed(f"the program {name} is neither beside {sys.executable} nor on PATH")
    return Path(found)
