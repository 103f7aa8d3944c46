"""The rows of the read model after events that say what no table can hold."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.node.v1.events_pb2 import NodeEnrolled, NodeForeignProcessSeen
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import stream_name, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_scheduler.projections.nodes import node_row


def an_event(category: str, message: Message, version: int) -> RecordedEvent:
    context = Context(parse_actor("user:alice"), uuid7(), source="/scheduler")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    envelope: Envelope = wrap(message, stream_name(category, "it"), context, now)
    envelope.position = envelope.stream_version = version
    return RecordedEvent(envelope)


def test_a_foreign_process_of_a_gpu_whose_name_has_a_zero_byte_is_seen_and_gone() -> None:
    row = node_row(None, an_event("node", NodeEnrolled(node_id="it"), 1))
    seen = NodeForeignProcessSeen(node_id="it", gpu_uuid="GPU-\0", pid=7)
    row = node_row(row, an_event("node", seen, 2))
    assert (row.foreign_gpu_uuids, row.foreign_pids) == (("GPU-\ufffd",), (7,))
    seen.gone = True
    assert node_row(row, an_event("node", seen, 3)).foreign_pids == ()
