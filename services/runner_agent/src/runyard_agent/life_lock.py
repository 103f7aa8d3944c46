"""The lock that a process holds for life: whether it lives, which no recycled pid can fake."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def is_held(lock_file: Path) -> bool:
    """Say whether somebody holds the lock of a file; blocks for no time."""
    try:
        lock = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
