"""Tells the followers of a process that the log may have grown; never what is in it.

Rung by the process's own appender and by the relay over NATS. Everything heard is only a reason to look
at the log, so a lost, repeated or forged message can cost at most a second or an empty look.
"""

from __future__ import annotations

import asyncio
import logging

from nats.aio.client import Client
from nats.aio.msg import Msg

from runyard_contracts import subjects
from runyard_core.bus_connection import hang_up

_log = logging.getLogger(__name__)


class Doorbell:
    """Wakes every waiting follower of this process."""

    def __init__(self) -> None:
        self._rings = 0
        self._rung = asyncio.Event()

    @property
    def rings(self) -> int:
        """How often it has rung; read it before looking at the log, and wait for a later one."""
        return self._rings

    def ring(self) -> None:
        """Wake everybody who waits."""
        self._rings += 1
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, heard: int, timeout_seconds: float = 1.0) -> bool:
        """Wait for a ring later than ``heard``; False when the time is over first."""
        if self._rings != heard:
            return True
        try:
            # Not wait_for: before Python 3.12 it may swallow a cancellation that comes with the ring.
            async with asyncio.timeout(timeout_seconds):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True

    async def listen(self, client: Client) -> None:
        """Ring whenever the relay says that the log has grown; the client itself survives reconnects."""

        async def on_head(_: Msg) -> None:
            self.ring()

        await client.subscribe(subjects.HEAD, cb=on_head)

    async def serve(self, url: str, user: str = "", password: str = "") -> None:
        """Hold an own connection to the bus and listen, until cancelled.

        Returns only by cancellation: an absent bus is tried again for ever, meanwhile followers look at
        the log every second.
        """

        async def on_error(error: Exception) -> None:
            _log.debug("doorbell: the bus says %r", error)

        async def on_reconnect() -> None:
            self.ring()

        client = Client()
        try:
            await client.connect(
                url,
                user=user or None,
                password=password or None,
                name="runyard-doorbell",
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                error_cb=on_error,
                reconnected_cb=on_reconnect,
            )
            await self.listen(client)
            await asyncio.Event().wait()
        finally:
            await hang_up(client)
