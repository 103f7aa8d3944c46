"""From decided event messages to the changes of streams that one command appends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import EventId, StreamName, stream_name
from runyard_scheduler.domain import node as node_domain
from runyard_scheduler.domain.run import RUN
from runyard_scheduler.process.world import NodeEntry, RunEntry, World
from runyard_servicekit.context import service_context

SERVICE = "scheduler"


@dataclass(frozen=True, slots=True)
class Change:
    """The next events of one stream."""

    stream: StreamName
    expected_version: int
    events: tuple[Envelope, ...]


def change(
    category: str,
    stream_id: str,
    expected_version: int,
    messages: Sequence[Message],
    context: Context,
    occurred_at: datetime,
) -> Change:
    """Wrap the events that were decided for one stream."""
    stream = stream_name(category, stream_id)
    return Change(
        stream,
        expected_version,
        tuple(wrap(message, stream, context, occurred_at) for message in messages),
    )


def run_changes(
    world: World,
    entry: RunEntry,
    messages: Sequence[Message],
    context: Context,
    now: datetime,
    *,
    occurred_at: datetime | None = None,
) -> list[Change]:
    """Give the change of a run, and of its node when the run's lease lets go of its GPUs with it.

    Args:
        world: where the node is.
        entry: the run before the events.
        messages: what was decided; nothing gives no change.
        context: who asked, and why.
        now: the scheduler's time of day, from which a release counts.
        occurred_at: when the run's events happened, if their producer has another clock.
    """
    if not messages:
        return []
    run = entry.run
    changed = change("run", run.run_id, entry.version, messages, context, occurred_at or now)
    lease, after = run.live_lease, RUN.fold(messages, run).live_lease
    if lease is None or not lease.holds_gpus or (after is not None and after.holds_gpus):
        return [changed]
    node = world.node(lease.node_id)
    released = node_domain.decide(node.node, node_domain.Release(lease.lease_id))
    cause = EventId(changed.events[0].event_id)
    return [changed, *_of_node(node, released, on_behalf_of(entry, causation_id=cause), now)]


def _of_node(node: NodeEntry, messages: Sequence[Message], context: Context, now: datetime) -> list[Change]:
    if not messages:
        return []
    return [change("node", node.node.node_id, node.version, messages, context, now)]


def on_behalf_of(entry: RunEntry, *, causation_id: str = "") -> Context:
    """Give the context of events that the scheduler makes on its own for a run."""
    context = service_context(
        SERVICE,
        correlation_id=entry.correlation_id,
        causation_id=causation_id or entry.last_event_id,
        traceparent=entry.traceparent,
    )
    # The run's trace, also when a request of somebody else set it off.
    return replace(context, traceparent=entry.traceparent)
