"""Table ``node``: one row for each event of a node, with the whole document."""

from __future__ import annotations

from dataclasses import dataclass

from runyard.node.v1.events_pb2 import NodeAttached, NodeDetached, NodeForeignProcessSeen
from runyard.node.v1.types_pb2 import Node
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import TableSpec
from runyard_replay.folding.nodes import node_after
from runyard_scheduler.domain.node import Node as DomainNode
from runyard_scheduler.domain.node import evolve


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as of a position."""

    node_id: str
    position: int
    version: int
    """Version of the node's stream."""
    attachment_event_id: str
    """The latest node.attached or node.detached: what the silence or return of its attempts follows from."""
    attachment_position: int
    attachment_correlation_id: str
    foreign_gpu_uuids: tuple[str, ...]
    """GPUs that processes of no attempt use; the process ids are in ``foreign_pids``, in the same order."""
    foreign_pids: tuple[int, ...]
    document: bytes
    """Serialised ``runyard.node.v1.Node``."""


NODES = TableSpec(name="node", row_class=NodeRow, key=("node_id",))


def node_row(before: NodeRow | None, event: RecordedEvent) -> NodeRow:
    """Give the row after an event of a node's stream."""
    envelope = event.envelope
    attachment = (
        ("", 0, "")
        if before is None
        else (before.attachment_event_id, before.attachment_position, before.attachment_correlation_id)
    )
    if isinstance(event.message, NodeAttached | NodeDetached):
        attachment = (envelope.event_id, event.position, envelope.correlation_id)
    event_id, position, correlation_id = attachment
    document = None if before is None else Node.FromString(before.document)
    foreign = _foreign_after(before, document, event)
    node = node_after(document, event)
    return NodeRow(
        node_id=node.node_id,
        position=event.position,
        version=envelope.stream_version,
        attachment_event_id=event_id,
        attachment_position=position,
        attachment_correlation_id=correlation_id,
        foreign_gpu_uuids=tuple(gpu_uuid for gpu_uuid, _ in foreign),
        foreign_pids=tuple(pid for _, pid in foreign),
        document=node.SerializeToString(deterministic=True),
    )


def _foreign_after(
    before: NodeRow | None, document: Node | None, event: RecordedEvent
) -> list[tuple[str, int]]:
    """Give the foreign processes after an event, as decisions know them."""
    if before is None or document is None:
        return []
    known = frozenset(zip(before.foreign_gpu_uuids, before.foreign_pids, strict=True))
    state = DomainNode(inventory=document.inventory, foreign_processes=known)
    message = event.message
    if isinstance(message, NodeForeignProcessSeen) and "\0" in message.gpu_uuid:
        # An agent may say anything. One that is gone is known by what the row before has of it.
        gpu_uuid = message.gpu_uuid.replace("\0", "\ufffd")
        message = NodeForeignProcessSeen(gpu_uuid=gpu_uuid, pid=message.pid, gone=message.gone)
    return sorted(evolve(state, message).foreign_processes)
