"""Spool to JetStream: many batches in flight, in order, sent again until the log says that it has them.

A JetStream acknowledgement only means that the bus holds a batch. The spool is trimmed to the committed
mark, which the metrics service publishes for this node after each commit. Whenever the mark stands still,
and after each new connection, everything after it is sent again; message ids make that safe.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import PubAck

from runyard_agent.gate import Gate
from runyard_agent.spool import Spool
from runyard_agent.spool_file import SpoolRecord
from runyard_contracts import gate as gate_names
from runyard_contracts import subjects
from runyard_contracts.ids import deterministic_id
from runyard_core.bus_connection import hang_up
from runyard_core.cancelling import end_if_cancelled
from runyard_core.errors import Corrupt
from runyard_core.retry import Backoff, Retries

logger = logging.getLogger(__name__)

_IN_FLIGHT_MAX = 256
_ACKNOWLEDGE_SECONDS_MAX = 10.0
_RESEND_SECONDS_MIN = 15.0
# Longer than the bus remembers message ids (2 minutes): then a batch that it swallowed as known gets through.
_RESEND_SECONDS_MAX = 130.0
_PING_SECONDS = 20
_BACKOFF = Backoff(first_seconds=0.2, seconds_max=15.0)


class PublishingStalledError(Exception):
    """The bus does not acknowledge what it is sent, or the connection is gone: connect anew."""


@dataclass(frozen=True, slots=True)
class BusAddress:
    """Where the bus is, and who we are there."""

    url: str
    user: str
    password: str = field(repr=False)
    gate: Gate | None = None
    """The way to it; without one it is spoken to as it is."""


class Publisher:
    """Sends the spool of one node, for as long as it runs."""

    def __init__(self, spool: Spool, node_id: str, address: BusAddress) -> None:
        """Prepare; nothing is sent before ``run``."""
        self._spool = spool
        self._node_id = node_id
        self._address = address
        self._in_flight: deque[tuple[int, float, asyncio.Future[PubAck]]] = deque()
        self._unsent: deque[SpoolRecord] = deque()
        """Read, but there was no room in flight yet."""
        self._sent_sequence = 0
        self._mark_moved_at = 0.0
        self._ended = asyncio.Event()
        self._spool_error: Corrupt | None = None
        self._resend_seconds = _RESEND_SECONDS_MIN
        self._retries = Retries("sending telemetry, which waits in the spool", _BACKOFF, logger)
        self._lower_mark: int | None = None
        """What the log said last, when that was less than it has said before."""

    async def run(self) -> None:
        """Send for ever: over one connection after the other, until cancelled.

        Raises:
            Corrupt: SPOOL_IS_OLD or SPOOL_IS_TRIMMED, see ``Spool.commit`` and ``Spool.go_back``.
        """
        while True:
            try:
                await self._run_connection()
            except (nats.errors.Error, PublishingStalledError, OSError, TimeoutError) as error:
                end_if_cancelled()
                await self._retries.pause(error)

    async def _run_connection(self) -> None:
        self._ended = asyncio.Event()

        async def on_closed() -> None:
            self._ended.set()

        async def on_error(error: Exception) -> None:
            logger.debug("bus: %r", error)

        gate = self._address.gate
        # Not by itself: a connection that comes back has dead subscriptions and replies that never come.
        client = Client()
        try:
            await client.connect(
                self._address.url,
                user=self._address.user,
                password=self._address.password,
                tls=gate.tls() if gate else None,
                tls_hostname=gate_names.BUS if gate else None,
                tls_handshake_first=gate is not None,
                name=f"runyard-agent-{self._node_id}",
                inbox_prefix=subjects.inbox_prefix(self._node_id),
                allow_reconnect=False,
                ping_interval=_PING_SECONDS,
                max_outstanding_pings=2,
                closed_cb=on_closed,
                disconnected_cb=on_closed,
                error_cb=on_error,
            )
            await client.subscribe(subjects.committed_subject(self._node_id), cb=self._take_mark)
            await client.flush(timeout=5)
            self._begin_again()
            await self._publish(client)
        finally:
            self._begin_again()
            await hang_up(client)

    def _begin_again(self) -> None:
        for _, _, future in self._in_flight:
            if not future.cancel() and not future.cancelled():
                future.exception()
        self._in_flight.clear()
        self._unsent.clear()
        self._sent_sequence = self._spool.committed_sequence
        self._mark_moved_at = time.monotonic()

    async def _publish(self, client: Client) -> None:
        # We hold the bound ourselves: its own wait for room turns a cancellation into another error.
        jetstream = client.jetstream(publish_async_max_pending=2 * _IN_FLIGHT_MAX)
        while not self._ended.is_set():
            self._check_acknowledgements()
            self._resend_when_the_mark_stands_still()
            records = self._sendable()
            for record in records:
                future = await jetstream.publish_async(
                    subjects.telemetry_subject(self._node_id, record.kind),
                    record.body,
                    headers=self._headers(record),
                )
                self._in_flight.append((record.sequence, time.monotonic(), future))
                if self._sent_sequence == self._spool.committed_sequence:
                    self._mark_moved_at = time.monotonic()
                self._sent_sequence = record.sequence
            if not records:
                await self._wait_for_work()
        raise self._spool_error or PublishingStalledError("the connection was closed")

    def _sendable(self) -> list[SpoolRecord]:
        """Give what there is room for. The spool is read on only when all that was read is sent."""
        room = _IN_FLIGHT_MAX - len(self._in_flight)
        if room > 0 and not self._unsent:
            self._unsent.extend(self._spool.read(self._sent_sequence))
        return [self._unsent.popleft() for _ in range(min(room, len(self._unsent)))]

    def _headers(self, record: SpoolRecord) -> dict[str, str]:
        spool_id = self._spool.spool_id
        return {
            "Nats-Msg-Id": deterministic_id(self._node_id, spool_id, record.sequence),
            subjects.HEADER_SPOOL_ID: spool_id,
            subjects.HEADER_SPOOL_SEQUENCE: str(record.sequence),
        }

    def _check_acknowledgements(self) -> None:
        """Forget what the bus holds now.

        Raises:
            PublishingStalledError: a batch was refused, or not answered in time.
        """
        while self._in_flight:
            sequence, sent_at, future = self._in_flight[0]
            if not future.done():
                if time.monotonic() - sent_at > _ACKNOWLEDGE_SECONDS_MAX:
                    raise PublishingStalledError(f"batch {sequence} was not acknowledged in time")
                return
            self._in_flight.popleft()
            error = future.exception()
            if error is not None:
                raise PublishingStalledError(f"batch {sequence} was refused: {error!r}")

    def _resend_when_the_mark_stands_still(self) -> None:
        is_behind = self._spool.committed_sequence < self._sent_sequence
        if not is_behind or self._in_flight:
            return
        if time.monotonic() - self._mark_moved_at > self._resend_seconds:
            self._resend_seconds = min(self._resend_seconds * 2, _RESEND_SECONDS_MAX)
            if self._lower_mark is not None:
                # Said once, it may have been overtaken by a higher one; but nothing followed.
                self._spool.go_back(self._lower_mark)
                self._lower_mark = None
            self._begin_again()

    async def _wait_for_work(self) -> None:
        """Wait for a record that can be sent, an acknowledgement, the end, or the time to send again."""
        own: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._ended.wait())]
        if len(self._in_flight) < _IN_FLIGHT_MAX:
            following = self._spool.wait_for_durable(self._sent_sequence + 1)
            own.append(asyncio.ensure_future(following))
        oldest: list[asyncio.Future[Any]] = [self._in_flight[0][2]] if self._in_flight else []
        is_behind = self._spool.committed_sequence < self._sent_sequence
        timeout = _ACKNOWLEDGE_SECONDS_MAX if oldest else self._resend_seconds
        try:
            await asyncio.wait(
                [*own, *oldest],
                timeout=timeout if is_behind else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for wait in own:
                wait.cancel()

    async def _take_mark(self, message: Msg) -> None:
        try:
            mark = json.loads(message.data)
            spool_id, sequence = str(mark["spool_id"]), int(mark["sequence"])
        except (ValueError, KeyError, TypeError):
            logger.warning("not a committed mark: %r", message.data[:200])
            return
        if spool_id != self._spool.spool_id:
            return
        self._lower_mark = sequence if sequence < self._spool.committed_sequence else None
        if sequence <= self._spool.committed_sequence:
            return
        self._mark_moved_at = time.monotonic()
        self._resend_seconds = _RESEND_SECONDS_MIN
        self._retries.succeeded()
        try:
            self._spool.commit(sequence)
        except Corrupt as error:
            # The client would swallow it here; it must end the agent.
            self._spool_error = error
            self._ended.set()
