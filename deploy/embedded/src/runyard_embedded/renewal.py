"""Keeps the gate's certificate good while the yard is up; the gate sees by itself that it has changed."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from runyard_core.errors import Unavailable
from runyard_embedded.home import Home
from runyard_embedded.key_making import make_keys

LOOK_SECONDS_MAX = 86_400.0
"""Machines sleep and clocks are put right: nothing waits for weeks in one go."""
_RETRY_SECONDS = 3_600.0

log = logging.getLogger("runyard.supervisor")


async def renew_certificate(home: Home) -> datetime:
    """Make the gate's authority, if there is none, and its next certificate, if it is due.

    Returns:
        When to look again.

    Raises:
        Unavailable: it cannot be made.
    """
    said = await make_keys(
        "runyard_embedded.certificate",
        home.gate_authority_file,
        home.gate_authority_key_file,
        home.gate_certificate_file,
    )
    return datetime.fromisoformat(said.strip())


async def keep_certificate(home: Home) -> None:
    """Renew it whenever it is due, for ever."""
    while True:
        try:
            due = await renew_certificate(home)
        except Unavailable as error:
            log.warning("the gate's certificate cannot be renewed: %s", error.message)
            wait_seconds = _RETRY_SECONDS
        else:
            wait_seconds = (due - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(min(max(wait_seconds, 0.0), LOOK_SECONDS_MAX))
