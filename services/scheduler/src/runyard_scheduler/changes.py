"""From decided event messages to the changes of streams that one command appends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import StreamName, stream_name
from runyard_scheduler.domain import node as node_domain
from runyard_scheduler.domain.causation import Mark
from runyard_scheduler.domain.run import RUN
from runyard_scheduler.domain.run_state import Run
from runyard_scheduler.process.world import RunEntry, World
from runyard_servicekit.context import service_context

SERVICE = "scheduler"
_NOT_APPENDED_YET = 2**62
"""Stands for the position of an event of the same command: behind everything in the log."""


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
    causation_id: str = "",
) -> list[Change]:
    """Give the change of a run, and of its node when the run's lease lets go of its GPUs with it.

    Each event names the one that it follows from.

    Args:
        world: where the node is.
        entry: the run before the events.
        messages: what was decided; nothing gives no change.
        context: who asked.
        now: the scheduler's time of day, from which a release counts.
        occurred_at: when the run's events happened, if their producer has another clock.
        causation_id: what they follow from, if that is not on the run's trail.
    """
    if not messages:
        return []
    run, lease = entry.run, entry.run.live_lease
    node = world.node("" if lease is None else lease.node_id)
    stream = stream_name("run", run.run_id)
    trail, after = entry.trail, run
    envelopes: list[Envelope] = []
    release_cause = ""
    for number, message in enumerate(messages):
        cause = causation_id or trail.cause_of(message, node.attachment)
        envelope = wrap(message, stream, replace(context, causation_id=cause), occurred_at or now)
        envelopes.append(envelope)
        trail = trail.after(message, Mark(envelope.event_id, _NOT_APPENDED_YET + number))
        after = RUN.evolve(after, message)
        if not release_cause and not _holds_gpus(after):
            release_cause = envelope.event_id
    changed = Change(stream, entry.version, tuple(envelopes))
    if lease is None or not lease.holds_gpus or _holds_gpus(after):
        return [changed]
    released = node_domain.decide(node.node, node_domain.Release(lease.lease_id))
    if not released:
        return [changed]
    of_node = on_behalf_of(entry, causation_id=release_cause)
    return [changed, change("node", node.node.node_id, node.version, released, of_node, now)]


def _holds_gpus(run: Run) -> bool:
    return run.live_lease is not None and run.live_lease.holds_gpus


def on_behalf_of(entry: RunEntry, *, causation_id: str = "") -> Context:
    """Give the context of events that the scheduler makes on its own for a run."""
    context = service_context(
        SERVICE,
        correlation_id=entry.correlation_id,
        causation_id=causation_id,
        traceparent=entry.traceparent,
    )
    # The run's trace, also when a request of somebody else set it off.
    return replace(context, traceparent=entry.traceparent)
