"""Ends connections to the bus, also those that never came about."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

_SECONDS_MAX = 2.0
_SECONDS_MAX_OF_NOTHING = 0.1

_log = logging.getLogger(__name__)


class BusClient(Protocol):
    """What is needed of a client of nats-py, which the core does not know."""

    @property
    def is_connected(self) -> bool:
        """Whether the connection has come about and was neither lost nor closed since."""

    async def close(self) -> None:
        """Close the connection; may raise OSError."""


async def hang_up(client: BusClient) -> None:
    """Close a client, also one that was refused, or stopped while it connected: it leaves its socket open.

    Takes 2 s at most. One whose TLS came to nothing waits for ever for the end of what it has closed, so it
    gets less time.
    """
    try:
        async with asyncio.timeout(_SECONDS_MAX if client.is_connected else _SECONDS_MAX_OF_NOTHING):
            await client.close()
    except (OSError, TimeoutError):
        _log.debug("the connection to the bus did not close cleanly")
