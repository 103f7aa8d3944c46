"""The envelope of a telemetry batch: it says node, spool and sequence, so that sending it again is safe."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import EventId, SpoolId, deterministic_id, stream_name


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a batch exists: what its envelope carries besides the node."""

    correlation_id: str = ""
    """Empty for batches that belong to no run: they are their own group."""
    traceparent: str = ""


NO_CAUSE = Cause()


def envelope_bytes(
    batch: Message,
    node_id: str,
    spool_id: SpoolId,
    sequence: int,
    occurred_at: datetime,
    cause: Cause = NO_CAUSE,
) -> bytes:
    """Put a batch into its envelope; its id says node, spool and sequence, so sending it again is safe."""
    event_id = EventId(deterministic_id(node_id, spool_id, sequence))
    context = Context(
        actor=Actor(kind=ActorKind.ACTOR_KIND_AGENT, id=node_id),
        correlation_id=cause.correlation_id or event_id,
        source=f"/agents/{node_id}",
        traceparent=cause.traceparent,
    )
    stream = stream_name("telemetry", f"{node_id}.{spool_id}")
    envelope = wrap(batch, stream, context, occurred_at, event_id=event_id)
    envelope.stream_version = sequence
    return envelope.SerializeToString(deterministic=True)
