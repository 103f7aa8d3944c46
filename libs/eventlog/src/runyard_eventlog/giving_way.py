"""Lets a process that reads much come last: after the services of the yard, and the runs of its machine.

Niceness alone does not do it. Linux shares processors out among sessions first (autogroup), and every engine
and service has a session of its own; within one, niceness counts. Nor does it reach the database's process
that serves such a reader, which has the priority of those whom the reader gives way to. So the reader asks
less often while others work.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

from runyard_eventlog.turns import Turns

NICENESS = 19
"""Leaves a process a sixtieth of a processor that somebody else wants all of: enough to come to an end."""

_WORKED_AND_WAITED = Path("/proc/self/schedstat")
_SESSION_NICENESS = "/proc/self/autogroup"
_TRIES = 50
_TRY_SECONDS = 0.1
"""The kernel takes one such wish in this time from all processes without privileges together."""


_turns: list[Turns] = []
"""Empty until this process gives way, which cannot be taken back."""


def give_way() -> None:
    """Put the calling process behind all others, in a session of its own, without a terminal.

    To be called before it has threads. A process that leads a group of processes stays in its session, which
    others share, and only gives way to those.
    """
    os.nice(NICENESS)
    if not _turns and _WORKED_AND_WAITED.exists():
        _turns.append(Turns(_worked_and_waited))
    try:
        os.setsid()
    except PermissionError:
        if os.getsid(0) != os.getpid():
            return
    if not _lower_session():
        threading.Thread(target=_lower_later, daemon=True).start()


async def wait_for_turn() -> None:
    """Wait before a page of the log is asked for, in a process that gives way and has to; else go on."""
    for turns in _turns:
        await asyncio.sleep(turns.pause_seconds())


def _worked_and_waited() -> tuple[float, float]:
    worked_ns, waited_ns, _ = _WORKED_AND_WAITED.read_text().split()
    return int(worked_ns) / 1e9, int(waited_ns) / 1e9


def _lower_later() -> None:
    for _ in range(_TRIES):
        time.sleep(_TRY_SECONDS)
        if _lower_session():
            return


def _lower_session() -> bool:
    """Give the session the niceness; False when it has to be asked again."""
    try:
        wish = os.open(_SESSION_NICENESS, os.O_WRONLY)
    except OSError:
        # There are no such groups here, so niceness counts everywhere.
        return True
    try:
        os.write(wish, str(NICENESS).encode())
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        os.close(wish)
    return True
