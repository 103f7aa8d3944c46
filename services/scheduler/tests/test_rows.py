"""The rows of the read model hold whatever an event says: one that was refused would stop all."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.node.v1.events_pb2 import NodeEnrolled, NodeForeignProcessSeen
from runyard.run.v1.events_pb2 import RunQueued, RunStopRequested
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import stream_name, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_scheduler.projections.nodes import node_row
from runyard_scheduler.projections.runs import run_row

from .yard import a_spec


def an_event(category: str, message: Message, version: int) -> RecordedEvent:
    context = Context(parse_actor("user:alice"), uuid7(), source="/scheduler")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    envelope: Envelope = wrap(message, stream_name(category, "it"), context, now)
    envelope.position = envelope.stream_version = version
    return RecordedEvent(envelope)


def test_a_zero_byte_in_an_event_of_a_run_is_none_in_its_row() -> None:
    queued = RunQueued(run_id="it", spec=a_spec(step="a\0b"), tags=["c\0", "d"])
    row = run_row(None, an_event("run", queued, 1))
    row = run_row(row, an_event("run", RunStopRequested(run_id="it", reason="e\0f"), 2))
    assert row is not None
    assert (row.step, row.tags, row.stop_reason) == ("a\ufffdb", ("c\ufffd", "d"), "e\ufffdf")


def test_a_zero_byte_in_what_an_agent_saw_is_none_in_the_row_of_its_node() -> None:
    row = node_row(None, an_event("node", NodeEnrolled(node_id="it"), 1))
    seen = NodeForeignProcessSeen(node_id="it", gpu_uuid="GPU-\0", pid=7)
    assert node_row(row, an_event("node", seen, 2)).foreign_gpu_uuids == ("GPU-\ufffd",)
