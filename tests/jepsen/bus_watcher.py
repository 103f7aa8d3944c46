"""A child that follows the mirror, as programs outside the yard do: ``python -m tests.jepsen.bus_watcher``.

It holds its own place and asks for what follows; stream sequence = position.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts import subjects
from tests.jepsen.history import HistoryFile, Saw, last_seen, now_ns, read_history
from tests.jepsen.process_arguments import BusWatcherArguments, arguments_of
from tests.jepsen.writer import text_of

_PAGE = 200
_log = logging.getLogger(__name__)


class BusWatcher:
    """Follows the mirror from where its history ends."""

    def __init__(self, arguments: BusWatcherArguments) -> None:
        path = Path(arguments.history)
        self._arguments = arguments
        self._position = last_seen(read_history(path), Lane.LANE_DOMAIN)
        self._history = HistoryFile(path)

    async def run(self) -> None:
        """Follow until killed, over one connection after the other."""
        while True:
            try:
                await self._run_connection()
            except (NatsError, OSError, TimeoutError) as error:
                _log.info("again soon: %r", error)
                await asyncio.sleep(0.05)

    async def _run_connection(self) -> None:
        url, password = self._arguments.nats_url, self._arguments.nats_password
        async with Client() as client:
            await client.connect(url, user="test", password=password, allow_reconnect=False)
            while True:
                await self._follow(client)

    async def _follow(self, client: Client) -> None:
        """Write down what comes after our place, until nothing came for a while."""
        subscription = await client.jetstream(timeout=2).pull_subscribe(
            subjects.EVENT_WILDCARD,
            stream=self._arguments.stream,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._position + 1,
                ack_policy=AckPolicy.NONE,
                mem_storage=True,
                inactive_threshold=30,
            ),
        )
        try:
            while True:
                messages = await subscription.fetch(_PAGE, timeout=0.5)
                seen = [_saw(message.metadata.sequence.stream, message.data) for message in messages]
                self._history.write(*seen)
                self._position = seen[-1].position
        except NatsTimeoutError:
            return
        finally:
            await subscription.unsubscribe()


def _saw(sequence: int, body: bytes) -> Saw:
    envelope = Envelope.FromString(body)
    assert envelope.position == sequence
    return Saw(
        lane=Lane.LANE_DOMAIN,
        position=sequence,
        event_id=envelope.event_id,
        stream=envelope.stream,
        version=envelope.stream_version,
        text=text_of(envelope),
        at_ns=now_ns(),
    )


if __name__ == "__main__":
    asyncio.run(BusWatcher(arguments_of(BusWatcherArguments, sys.argv[1])).run())
