"""The events that an agent sends, as envelopes and as the log gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Envelope
from runyard.metric.v1.batches_pb2 import AttemptRef, GpuSamplesRecorded
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import EventId, deterministic_id
from runyard_contracts.recorded import RecordedEvent
from runyard_metrics.domain.spools import SpoolKey

AT = datetime(2026, 3, 1, tzinfo=UTC)


def envelope_of(message: Message, sequence: int, spool: SpoolKey = SpoolKey("node-1", "s1")) -> Envelope:
    """Make the envelope that an agent sends."""
    context = Context(
        actor=Actor(kind=ActorKind.ACTOR_KIND_AGENT, id=spool.node_id),
        correlation_id="c",
        source=f"/agents/{spool.node_id}",
    )
    event_id = EventId(deterministic_id(spool.node_id, spool.spool_id, sequence))
    envelope = wrap(message, spool.stream, context, AT, event_id=event_id)
    envelope.stream_version = sequence
    return envelope


def recorded(messages: Sequence[Message]) -> list[RecordedEvent]:
    """Give messages the positions that a log with nothing else in it would."""
    return committed([(SpoolKey("node-1", "s1"), message) for message in messages])


def committed(batches: Sequence[tuple[SpoolKey, Message]]) -> list[RecordedEvent]:
    """Give batches of several spools their places in a log that took them in this order, one a second."""
    events = []
    sequences: Counter[SpoolKey] = Counter()
    for position, (spool, message) in enumerate(batches, start=1):
        sequences[spool] += 1
        envelope = envelope_of(message, sequences[spool], spool)
        envelope.position = position
        envelope.recorded_at.FromDatetime(AT + timedelta(seconds=position))
        events.append(RecordedEvent(envelope))
    return events


def gpu_samples(*holders: str, rows: int = 2) -> GpuSamplesRecorded:
    """Make a batch of GPUs that runs hold, or nobody: so many readings of each, a second apart."""
    count = rows * len(holders)
    return GpuSamplesRecorded(
        node_id="node-1",
        gpu_uuids=[f"GPU-{index}" for index in range(len(holders))],
        holders=[AttemptRef(run_id=run_id, attempt=1 if run_id else 0) for run_id in holders],
        times_unix_milliseconds=[1000 * (row + 1) for row in range(rows)],
        utilization_percents=range(count),
        memory_used_bytes=[1 << 40] * count,
        power_milliwatts=range(100, 100 + count),
        temperature_celsius=[50] * count,
        energy_millijoules=[0] * count,
    )
