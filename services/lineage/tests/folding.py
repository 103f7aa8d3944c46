"""Fold domain events through the projection in memory, as the projector does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_lineage.projections.edges import EdgesProjection
from runyard_testkit import projecting
from runyard_testkit.projecting import Folded

AT = datetime(2026, 3, 1, tzinfo=UTC)
ALICE = Context(Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"), "c", "/scheduler")


def recorded(messages: Iterable[Message]) -> list[RecordedEvent]:
    """Give messages the positions that a log with nothing else in it would."""
    events = []
    for position, message in enumerate(messages, start=1):
        envelope = wrap(message, StreamName("run-x"), ALICE, AT + timedelta(seconds=position))
        envelope.position = position
        events.append(RecordedEvent(envelope))
    return events


def fold(messages: Iterable[Message]) -> Folded:
    """Apply messages one after the other."""
    return projecting.fold(EdgesProjection(), recorded(messages))
