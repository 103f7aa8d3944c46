"""Telemetry in: JetStream messages -> the telemetry lane of the log -> the committed mark back to the agent.

A message is acknowledged only after the log has its batch, so killing this process, NATS or PostgreSQL at any
moment loses nothing: what was not acknowledged is delivered again, what the log has already is recognised.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts import subjects
from runyard_contracts.ids import CommandId, EventId, deterministic_id
from runyard_core.errors import Conflict, IdReused, InvalidInput, Unavailable
from runyard_eventlog.port import AppendCommand, EventLog, StreamAppend
from runyard_metrics.domain.spools import RefusedBatchError, Spool, SpoolKey, moved, spool_of, take, without
from runyard_metrics.pull import ContinuousPull, PullLimits

CONSUMER = "metrics"
STREAM_AGE_SECONDS_MAX = 48 * 3600
"""How long JetStream buffers telemetry while this service is away. Agents keep their spools longer."""
ACK_PENDING_MAX = 20_000
ACK_WAIT_SECONDS = 5
"""What a killed instance of this service had taken comes again after this."""
TAKE_MAX = 1_000
"""Most messages handled together."""
RUN_LENGTH_MAX = 500
"""Most batches of one append command."""
WAITING_MAX = 2_000
"""Most batches of one spool that wait for their predecessor."""
SPOOLS_MAX = 10_000
"""Most spools whose marks are kept in memory."""
_RETRY_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)

Answer = TypeVar("Answer")

log = structlog.get_logger("runyard.metrics.ingest")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivered batch with its envelope."""

    message: Msg
    envelope: Envelope


@dataclass(slots=True)
class IngestCounts:
    """What has happened since the start, for logs and tests."""

    appended: int = 0
    duplicates: int = 0
    refused: int = 0
    binds: int = 0


class Ingest:
    """Consumes the TELEMETRY stream until cancelled."""

    def __init__(self, event_log: EventLog, bus: Client, limits: PullLimits = PullLimits()) -> None:
        """Prepare; nothing is asked of log or bus before ``run``."""
        self._event_log = event_log
        self._bus = bus
        self._limits = limits
        self._spools: dict[SpoolKey, Spool[Delivery]] = {}
        self.counts = IngestCounts()

    async def run(self) -> None:
        """Bind to the consumer and take batches, again and again; returns only by cancellation."""
        failures = 0
        while True:
            try:
                await self._bind()
                self.counts.binds += 1
                async with ContinuousPull(
                    self._bus, subjects.TELEMETRY_STREAM, CONSUMER, self._limits
                ) as pull:
                    while True:
                        await self.handle(await pull.take(TAKE_MAX))
                        failures = 0
            except (Unavailable, NatsError, TimeoutError, OSError) as error:
                # Also when the server was restarted under us: bind anew, what is open is delivered again.
                delay = _delay_seconds(failures)
                failures += 1
                log.warning("binding to the bus again", reason=str(error), after_seconds=delay)
                await asyncio.sleep(delay)

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
        async with asyncio.TaskGroup() as group:
            for key, deliveries in by_spool.items():
                group.create_task(self._advance(key, deliveries))
        self._forget_idle_spools()

    async def _advance(self, key: SpoolKey, deliveries: Sequence[Delivery]) -> None:
        spool = self._spools.get(key)
        if spool is None:
            spool = Spool(committed=await self._mark_in_log(key, 0))
        delivered = [(each.envelope.stream_version, each) for each in deliveries]
        while True:
            taken = take(spool, delivered, run_length_max=RUN_LENGTH_MAX, waiting_max=WAITING_MAX)
            self.counts.duplicates += len(taken.duplicates)
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
        self._spools[key] = spool
        await self._publish_mark(key, spool.committed)

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
            await _until_answered(lambda: self._event_log.append(command))
        except Conflict as conflict:
            return int(conflict.metadata["actual"])
        except (InvalidInput, IdReused) as error:
            found = await self._mark_in_log(key, mark)
            if found > mark:
                return found
            if len(run) > 1:
                return await self._append(key, mark, run[: len(run) // 2])
            raise RefusedBatchError(error.message) from error
        self.counts.appended += len(run)
        return last

    async def _mark_in_log(self, key: SpoolKey, known: int) -> int:
        return await _until_answered(lambda: mark_in_log(self._event_log, key, known))

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
        self.counts.refused += 1
        log.error("refused a telemetry message", subject=message.subject, reason=reason)
        with suppress(NatsError):
            await message.term()

    async def _bind(self) -> None:
        jetstream = self._bus.jetstream(timeout=5)
        await _ensure_stream(jetstream)
        config = ConsumerConfig(
            durable_name=CONSUMER,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_SECONDS,
            deliver_policy=DeliverPolicy.ALL,
            max_ack_pending=ACK_PENDING_MAX,
            filter_subject=subjects.TELEMETRY_WILDCARD,
        )
        await jetstream.add_consumer(subjects.TELEMETRY_STREAM, config)

    def _forget_idle_spools(self) -> None:
        for key in [key for key, spool in self._spools.items() if not spool.waiting]:
            if len(self._spools) <= SPOOLS_MAX:
                return
            del self._spools[key]


async def _until_answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask again and again while the log does not answer; what is asked is safe to repeat."""
    failures = 0
    while True:
        try:
            return await ask()
        except Unavailable as error:
            delay = _delay_seconds(failures)
            failures += 1
            log.warning("the log does not answer", reason=error.message, again_after_seconds=delay)
            await asyncio.sleep(delay)


def _delay_seconds(failures: int) -> float:
    return _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]


async def mark_in_log(event_log: EventLog, key: SpoolKey, known: int) -> int:
    """Find the last sequence that the log has of a spool, at or after a known one.

    Event ids follow from node, spool and sequence, and a stream has no gaps, so doubling steps and halving
    find the end in about 2 log2(n) look-ups, without a read model and without reading the stream.

    Raises:
        Unavailable: the log did not answer in time.
    """

    async def has(sequence: int) -> bool:
        event_id = EventId(deterministic_id(key.node_id, key.spool_id, sequence))
        return await event_log.find(event_id) is not None

    low, step = known, 1
    while await has(low + step):
        low, step = low + step, step * 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if await has(middle) else (low, middle)
    return low


async def _ensure_stream(jetstream: JetStreamContext) -> None:
    """Make the TELEMETRY stream when there is none; an operator's own settings of it are left alone."""
    try:
        await jetstream.stream_info(subjects.TELEMETRY_STREAM)
    except NotFoundError:
        config = StreamConfig(
            name=subjects.TELEMETRY_STREAM,
            subjects=[subjects.TELEMETRY_WILDCARD],
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            max_age=STREAM_AGE_SECONDS_MAX,
        )
        await jetstream.add_stream(config)
