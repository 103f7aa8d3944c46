"""Spools that the log cannot follow any more, and what is left of them on the disk."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

logger = logging.getLogger(__name__)


def set_aside(directory: Path) -> None:
    """Move a spool out of the way of a new one, and remove those that were set aside before it.

    Nothing reads it again: the log has its batches, or lacks some before them and takes none after. The last
    one stays for people to look into, as large as a spool may be.
    """
    earlier = sorted(directory.parent.glob(f"{directory.name}.old-*"))
    directory.rename(directory.with_name(f"{directory.name}.old-{time.time_ns()}"))
    for each in earlier:
        try:
            shutil.rmtree(each)
        except OSError:
            logger.exception("a spool that was set aside cannot be removed")
