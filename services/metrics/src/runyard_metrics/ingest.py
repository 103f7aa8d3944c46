"""Telemetry in: JetStream messages -> the telemetry lane of the log -> the committed mark back to the agent.

A message is acknowledged only after the log has its batch, so killing this process, NATS or PostgreSQL at any
moment loses nothing: what was not acknowledged is delivered again, what the log has already is recognised.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts import subjects
from runyard_contracts.ids import CommandId, deterministic_id
from runyard_core.clock import Clock, SystemClock
from runyard_core.errors import Conflict, IdReused, InvalidInput, Unavailable
from runyard_core.retry import Backoff, Retries, retried
from runyard_core.task_group import TaskGroup
from runyard_eventlog.port import AppendCommand, EventLog, StreamAppend
from runyard_metrics.binding import CONSUMER, bind
from runyard_metrics.domain.spools import (
    RefusedBatchError,
    Spool,
    SpoolKey,
    moved,
    spool_of,
    take,
    within_bytes,
    without,
)
from runyard_metrics.marks import mark_in_log
from runyard_metrics.pull import ContinuousPull, PullLimits

TAKE_MAX = 1_000
"""Most messages handled together."""
RUN_LENGTH_MAX = 500
"""Most batches of one append command."""
WAITING_MAX = 2_000
"""Most batches of one spool that wait for their predecessor."""
WAITING_BYTES_MAX = 64 * 1024 * 1024
"""Most bytes that wait for a predecessor, of all spools together; what is beyond is delivered again."""
STUCK_SECONDS = 60.0
"""How long a spool's batches may wait for one that does not come before they are given back to the agent."""
SPOOLS_MAX = 10_000
"""Most spools whose marks are kept in memory."""
_BACKOFF = Backoff(first_seconds=0.05, seconds_max=2.0)

log = structlog.get_logger("runyard.metrics.ingest")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivered batch with its envelope."""

    message: Msg
    envelope: Envelope


class Ingest:
    """Consumes the TELEMETRY stream until cancelled."""

    def __init__(
        self,
        event_log: EventLog,
        bus: Client,
        limits: PullLimits = PullLimits(),
        clock: Clock = SystemClock(),
    ) -> None:
        """Prepare; nothing is asked of log or bus before ``run``."""
        self._event_log = event_log
        self._bus = bus
        self._limits = limits
        self._clock = clock
        self._spools: dict[SpoolKey, Spool[Delivery]] = {}
        self._waiting_since: dict[SpoolKey, float] = {}
        self.refused_count = 0
        """Messages that can never be appended."""

    async def run(self) -> None:
        """Bind to the consumer and take batches, again and again; returns only by cancellation."""
        retries = Retries("taking telemetry from the bus", _BACKOFF, log)
        while True:
            try:
                await bind(self._bus)
                async with ContinuousPull(
                    self._bus, subjects.TELEMETRY_STREAM, CONSUMER, self._limits
                ) as pull:
                    while True:
                        await self.handle(await pull.take(TAKE_MAX))
                        retries.succeeded()
            except (Unavailable, NatsError, TimeoutError, OSError) as error:
                # Also when the server was restarted under us: bind anew, what is open is delivered again.
                await retries.pause(error)

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Append what continues its spool, acknowledge what the log has, publish the marks."""
        by_spool: dict[SpoolKey, list[Delivery]] = {}
        for message in messages:
            try:
                envelope = Envelope.FromString(message.data)
                key = spool_of(envelope, message.subject)
            except (DecodeError, RefusedBatchError) as error:
                await self._refuse(message, str(error))
                continue
            by_spool.setdefault(key, []).append(Delivery(message, envelope))
        async with TaskGroup() as group:
            for key, deliveries in by_spool.items():
                group.create_task(self._advance(key, deliveries))
        self._bound_waiting()
        self._forget_idle_spools()

    async def _advance(self, key: SpoolKey, deliveries: Sequence[Delivery]) -> None:
        spool = self._spools.get(key)
        if spool is None:
            spool = Spool(committed=await self._mark_in_log(key, 0))
        before = spool.committed
        delivered = [(each.envelope.stream_version, each) for each in deliveries]
        while True:
            taken = take(spool, delivered, run_length_max=RUN_LENGTH_MAX, waiting_max=WAITING_MAX)
            await self._acknowledge(taken.duplicates)
            spool, delivered = taken.spool, []
            if not spool.waiting:
                break
            try:
                # Before a hole, look: another instance of this service may have filled it.
                mark = await (
                    self._append(key, spool.committed, taken.run)
                    if taken.run
                    else self._mark_in_log(key, spool.committed)
                )
            except RefusedBatchError as error:
                sequence = taken.run[0].envelope.stream_version
                await self._refuse(taken.run[0].message, str(error))
                spool = without(spool, sequence)
                continue
            if mark == spool.committed:
                break
            if mark < spool.committed:
                log.error("the log has less than before", stream=key.stream, mark=mark, was=spool.committed)
            spool, done = moved(spool, mark)
            await self._acknowledge(done)
        self._spools[key] = await self._unstuck(key, before, spool)
        await self._publish_mark(key, spool.committed)

    async def _unstuck(self, key: SpoolKey, before: int, spool: Spool[Delivery]) -> Spool[Delivery]:
        """Let go of batches that wait for one that does not come.

        What waits is unacknowledged, and at ``binding.ACK_PENDING_MAX`` the consumer stops for every node.
        The agent keeps whatever is above the mark, so nothing is lost: it sends again once the mark moves.
        """
        now = self._clock.monotonic_seconds()
        if not spool.waiting or spool.committed != before:
            self._waiting_since.pop(key, None)
        elif now - self._waiting_since.setdefault(key, now) >= STUCK_SECONDS:
            log.error(
                "a spool stands still: its next batch does not come",
                stream=key.stream,
                mark=spool.committed,
                given_back=len(spool.waiting),
            )
            await self._acknowledge(list(spool.waiting.values()))
            return Spool(committed=spool.committed)
        return spool

    async def _append(self, key: SpoolKey, mark: int, run: Sequence[Delivery]) -> int:
        """Append consecutive batches; gives the mark that the log has then.

        Raises:
            RefusedBatchError: the first batch can never be appended; what follows in its spool has to wait.
        """
        last = mark + len(run)
        command = AppendCommand(
            command_id=CommandId(deterministic_id("metrics", "ingest", key.stream, mark + 1, last)),
            appends=(StreamAppend(key.stream, mark, [each.envelope for each in run]),),
        )
        try:
            await retried(lambda: self._event_log.append(command), (Unavailable,), _asking_the_log())
        except Conflict as conflict:
            return int(conflict.metadata["actual"])
        except (InvalidInput, IdReused) as error:
            found = await self._mark_in_log(key, mark)
            if found > mark:
                return found
            if len(run) > 1:
                return await self._append(key, mark, run[: len(run) // 2])
            raise RefusedBatchError(error.message) from error
        return last

    async def _mark_in_log(self, key: SpoolKey, known: int) -> int:
        return await retried(
            lambda: mark_in_log(self._event_log, key, known), (Unavailable,), _asking_the_log()
        )

    async def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        # A lost acknowledgement only brings the batch again, and then it is a duplicate.
        with suppress(NatsError):
            for delivery in deliveries:
                await delivery.message.ack()

    async def _publish_mark(self, key: SpoolKey, sequence: int) -> None:
        mark = json.dumps({"spool_id": key.spool_id, "sequence": sequence}).encode()
        # An agent that misses it hears the next one, or asks GetCommittedMark.
        with suppress(NatsError):
            await self._bus.publish(subjects.committed_subject(key.node_id), mark)

    async def _refuse(self, message: Msg, reason: str) -> None:
        self.refused_count += 1
        log.error("refused a telemetry message", subject=message.subject, reason=reason)
        with suppress(NatsError):
            await message.term()

    def _bound_waiting(self) -> None:
        waiting = {key: spool for key, spool in self._spools.items() if spool.waiting}
        for key, spool in waiting.items():
            share = WAITING_BYTES_MAX // len(waiting)
            self._spools[key] = within_bytes(spool, share, lambda each: len(each.message.data))

    def _forget_idle_spools(self) -> None:
        for key in [key for key, spool in self._spools.items() if not spool.waiting]:
            if len(self._spools) <= SPOOLS_MAX:
                return
            del self._spools[key]
            self._waiting_since.pop(key, None)


def _asking_the_log() -> Retries:
    return Retries("asking the log about telemetry", _BACKOFF, log)
