"""Until when an attempt may run, kept in a file for the parent that ends it when nobody renews."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

from runyard_agent.disk_reserve import is_full
from runyard_agent.runtime import LaunchPlan, lease_text

logger = logging.getLogger(__name__)


class AttemptLease:
    """The lease of one attempt. Only a plan that ends with its lease has a file of it."""

    def __init__(self, plan: LaunchPlan) -> None:
        """Begin without any time left."""
        self._plan = plan
        self._expires_at_boottime_seconds = 0.0
        self._news = asyncio.Event()

    def renew(self, expires_at_boottime_seconds: float) -> None:
        """Let the program run until then; never shorter than before."""
        self._expires_at_boottime_seconds = max(
            self._expires_at_boottime_seconds, expires_at_boottime_seconds
        )
        self._write()
        self._news.set()

    async def wait(self) -> None:
        """Wait until there is time left, for a plan that ends with its lease."""
        if not self._plan.ends_on_lease_expiry:
            return
        self._write()
        while self._expires_at_boottime_seconds <= time.clock_gettime(time.CLOCK_BOOTTIME):
            self._news.clear()
            await self._news.wait()

    def _write(self) -> None:
        plan = self._plan
        if plan.ends_on_lease_expiry and plan.state.is_dir() and self._expires_at_boottime_seconds:
            text = lease_text(self._expires_at_boottime_seconds).encode("ascii")
            try:
                new = plan.lease_file.with_name("lease.new")
                new.write_bytes(text)
                new.rename(plan.lease_file)
            except OSError as error:
                if not is_full(error):
                    raise
                _write_in_place(plan.lease_file, text)


def _write_in_place(path: Path, text: bytes) -> None:
    """Write over what is there: that needs no room, and a reader finds one time or the other."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        logger.exception("a lease cannot be written down: its attempt may end although it was renewed")
        return
    try:
        os.pwrite(descriptor, text, 0)
    finally:
        os.close(descriptor)
