"""Pull messages of a durable JetStream consumer continuously: soon, bounded, and beyond its server's death.

nats-py's own ``fetch`` either waits for a full batch or asks anew for every message, stays deaf when the
server was restarted under a waiting pull (nats-io/nats.py#504), and drops messages at its pending limits
(#298). So this owns the pull requests: credits bound what is on its way, heartbeats show that the server
still knows of us.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from runyard_core.errors import Unavailable

_NANOSECONDS = 1_000_000_000
_STATUS = "Status"
_HEARTBEAT = "100"
_REQUEST_ENDED = frozenset({"404", "408"})
_PENDING_MESSAGES = "Nats-Pending-Messages"


@dataclass(frozen=True, slots=True)
class PullLimits:
    """How much is asked for, and how silence is told from death."""

    credit_count: int = 1_000
    """Messages that may be on their way or waiting here."""
    heartbeat_seconds: float = 1.0
    """How often the server speaks while it has nothing to give; silent for twice this, it is gone."""
    request_seconds: float = 30.0
    """How long one pull request lives."""


class ConsumerGoneError(Unavailable):
    """The server says that the consumer or its stream is no more, or it has gone silent: bind again."""


class ContinuousPull:
    """An open pull on one consumer. Use as a context manager; ``take`` gives what has arrived."""

    def __init__(self, client: Client, stream: str, consumer: str, limits: PullLimits) -> None:
        """Prepare a pull; nothing is asked for before the context is entered."""
        self._client = client
        self._request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._limits = limits
        self._inbox = client.new_inbox()
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Subscription | None = None
        self._credits = 0

    async def __aenter__(self) -> Self:
        """Subscribe to the answers and ask for the first messages."""
        # Own queue and not next_msg: that makes a task and a timer for every message. Credits bound it.
        self._subscription = await self._client.subscribe(
            self._inbox, cb=self._arrived.put, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await self._ask()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening; what was delivered and not acknowledged comes again."""
        if self._subscription is None or self._client.is_closed:
            return
        # It may already be gone with the connection that it was made on.
        with suppress(NatsError):
            await self._subscription.unsubscribe()

    async def take(self, messages_max: int) -> list[Msg]:
        """Wait for at least one message and give everything that has arrived, up to a limit.

        Gives an empty list after a heartbeat, so that the caller sees time pass.

        Raises:
            ConsumerGoneError: bind again.
        """
        silence_seconds_max = 2 * self._limits.heartbeat_seconds
        try:
            # Not wait_for: in Python 3.11 it loses a cancellation that comes together with a message.
            async with asyncio.timeout(silence_seconds_max):
                first = await self._arrived.get()
        except TimeoutError:
            raise ConsumerGoneError(
                f"the bus has been silent for {silence_seconds_max} s", code="BUS_SILENT"
            ) from None
        taken: list[Msg] = []
        self._sort(first, taken)
        while len(taken) < messages_max and not self._arrived.empty():
            self._sort(self._arrived.get_nowait(), taken)
        if self._credits <= self._limits.credit_count // 2:
            await self._ask()
        return taken

    async def _ask(self) -> None:
        wanted = self._limits.credit_count - self._credits
        request = {
            "batch": wanted,
            "expires": int(self._limits.request_seconds * _NANOSECONDS),
            "idle_heartbeat": int(self._limits.heartbeat_seconds * _NANOSECONDS),
        }
        self._credits += wanted
        await self._client.publish(self._request_subject, json.dumps(request).encode(), reply=self._inbox)

    def _sort(self, message: Msg, taken: list[Msg]) -> None:
        """Keep a message of the stream; read what a status message says of our requests."""
        status = (message.headers or {}).get(_STATUS)
        if not status or message.data:
            self._credits -= 1
            taken.append(message)
            return
        if status == _HEARTBEAT:
            return
        unused = int((message.headers or {}).get(_PENDING_MESSAGES, "0"))
        self._credits = max(0, self._credits - unused)
        if status not in _REQUEST_ENDED:
            description = (message.headers or {}).get("Description", "")
            raise ConsumerGoneError(
                f"the bus ended the pull: {status} {description}", code="BUS_CONSUMER_GONE"
            )
