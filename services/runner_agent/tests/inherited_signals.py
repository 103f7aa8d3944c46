"""An agent that was started in the background of a script, or with nohup: what it ignores is inherited."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

UNTOUCHED = {"SigBlk": 0, "SigIgn": 0}
"""How a program finds its signals in a shell."""

_IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_BLOCKED = (signal.SIGUSR1,)


@contextmanager
def ignoring_signals() -> Iterator[None]:
    """Be such an agent meanwhile: whatever is started finds some signals ignored and one blocked."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)


def signals_of(status: bytes) -> dict[str, int]:
    """Read what ``grep -E 'Sig(Blk|Ign)' /proc/self/status`` said: a bit for each signal.

    Those that the C library keeps for itself are left out: no program can set them.
    """
    known = sum(1 << (number - 1) for number in signal.valid_signals())
    lines = (line.split(":") for line in status.decode().splitlines())
    return {name: int(mask, 16) & known for name, mask in lines}
