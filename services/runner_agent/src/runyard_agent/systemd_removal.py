"""Takes away what runs the agent as a service of systemd, and what a person set for it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from runyard_agent.systemd_unit import SETTINGS_PATH, UNIT_PATH, USER

_SYSTEMCTL_SECONDS_MAX = 60.0


def is_unit_installed() -> bool:
    """Say whether there is a unit of the agent."""
    return UNIT_PATH.exists()


def stop_unit() -> None:
    """Stop the service, if it runs; its attempts go on."""
    _systemctl("stop", UNIT_PATH.name)


def remove_unit(tell: Callable[[str], None]) -> list[str]:
    """Remove unit and settings; give what could not be.

    Says, too, what else a person made for the agent and has to remove.
    """
    if not os.access(UNIT_PATH.parent, os.W_OK):
        return [str(UNIT_PATH)]
    _systemctl("disable", "--now", UNIT_PATH.name)
    made = [UNIT_PATH, UNIT_PATH.with_name(f"{UNIT_PATH.name}.d"), SETTINGS_PATH]
    # Of where there is no systemctl to disable it.
    made += UNIT_PATH.parent.glob(f"*.wants/{UNIT_PATH.name}")
    for path in made:
        if _remove(path):
            tell(f"removed {path}")
    _systemctl("daemon-reload")
    if _is_known(USER):
        tell(f"left      the user {USER}: userdel {USER}")
    tell(f"left      the program itself, in {sys.prefix}")
    return []


def _remove(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return True
    if not path.exists() and not path.is_symlink():
        return False
    path.unlink()
    return True


def _is_known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _systemctl(*words: str) -> None:
    program = shutil.which("systemctl")
    # Where systemd is installed but does not run, as in containers, it says so and there is nothing to stop.
    if program is not None:
        subprocess.run([program, *words], check=False, capture_output=True, timeout=_SYSTEMCTL_SECONDS_MAX)
