"""Sets Python's garbage collector for a process that reads much of the log."""

from __future__ import annotations

import gc

YOUNG_OBJECTS_MAX = 20_000
"""Objects that are made and not gone before the collector looks through them. A page of the log is thousands
at once, all in use until the next one; Python's 700 has them looked through again and again."""


def set_collector() -> None:
    """Keep the collector from what is there for good, and from pages of the log.

    To be called once, when the modules of a process are imported.
    """
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS_MAX, middle, old)
