"""The stream and the consumer that telemetry comes through, made when they are missing."""

from __future__ import annotations

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from runyard_contracts import subjects

CONSUMER = "metrics"
STREAM_AGE_SECONDS_MAX = 48 * 3600
"""How long JetStream buffers telemetry while this service is away. Agents keep their spools longer."""
ACK_PENDING_MAX = 20_000
ACK_WAIT_SECONDS = 5
"""What a killed instance of this service had taken comes again after this."""

_ANSWER_SECONDS_MAX = 5


async def bind(bus: Client) -> None:
    """Make sure that stream and consumer are there.

    Raises:
        nats.errors.Error: the bus does not answer, or refuses.
    """
    jetstream = bus.jetstream(timeout=_ANSWER_SECONDS_MAX)
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
