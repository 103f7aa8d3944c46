"""Holds the agent's folder: two agents on it would undo each other's work."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from runyard_agent.life_lock import is_held
from runyard_core.errors import Conflict

LOCK_FILE = "agent.lock"


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the folder while the block runs.

    Raises:
        Conflict: AGENT_RUNNING, somebody else does.
    """
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Conflict(
            f"another agent runs in {directory}; stop it or choose another RUNYARD_AGENT_DIR",
            code="AGENT_RUNNING",
        ) from error
    finally:
        os.close(descriptor)


def is_locked(directory: Path) -> bool:
    """Say whether an agent runs on the folder."""
    return is_held(directory / LOCK_FILE)
