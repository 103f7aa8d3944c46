"""Ends connections to the bus, also those that never came about."""

from __future__ import annotations

import asyncio
import logging

import nats.errors
from nats.aio.client import Client

logger = logging.getLogger(__name__)

_SECONDS_MAX = 2.0
_SECONDS_MAX_OF_NOTHING = 0.1


async def hang_up(client: Client) -> None:
    """Close a client, also one that was refused, or stopped while it connected: it leaves its socket open.

    One whose TLS came to nothing waits for ever for the end of what it has closed, so it gets less time.
    """
    try:
        async with asyncio.timeout(_SECONDS_MAX if client.is_connected else _SECONDS_MAX_OF_NOTHING):
            await client.close()
    except (nats.errors.Error, OSError, TimeoutError):
        logger.debug("the connection to the bus did not close cleanly")
