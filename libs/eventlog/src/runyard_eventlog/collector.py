"""Sets Python's garbage collector, and the C library's memory, for a process that reads much of the log."""

from __future__ import annotations

import ctypes
import gc

YOUNG_OBJECTS_MAX = 20_000
"""Objects that are made and not gone before the collector looks through them. A page of the log is thousands
at once, all in use until the next one; Python's 700 has them looked through again and again."""

KEPT_BYTES = 256 << 20
TAKEN_BYTES = 64 << 20
KEPT_PIECE_BYTES = 32 << 20
"""The most that the GNU library takes for it."""

# The names of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def set_collector() -> None:
    """Keep the collector from what is there for good, and from pages of the log.

    To be called once, when the modules of a process are imported.
    """
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS_MAX, middle, old)


def keep_memory() -> None:
    """Take memory in large steps and give back none before the process ends, for one that is soon done.

    Else what one page of the log needed is given back, and asked for again with the next, to be filled with
    zeros each time: a twelfth of the processor time of a rebuild. Another C library goes on as it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TOP_PAD, TAKEN_BYTES)
        mallopt(_M_MMAP_THRESHOLD, KEPT_PIECE_BYTES)
