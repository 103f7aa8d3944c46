"""Table ``node``: one row for each event of a node, with the whole document."""

from __future__ import annotations

from dataclasses import dataclass

from runyard.node.v1 import events_pb2 as ev
from runyard.node.v1.types_pb2 import Node, NodeState
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import TableSpec


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as of a position."""

    node_id: str
    position: int
    version: int
    """Version of the node's stream."""
    last_event_id: str
    document: bytes
    """Serialised ``runyard.node.v1.Node``."""


NODES = TableSpec(name="node", row_class=NodeRow, key=("node_id",))


def node_row(before: NodeRow | None, node_id: str, event: RecordedEvent) -> NodeRow:
    """Give the row after an event of a node's stream."""
    node = Node(node_id=node_id) if before is None else Node.FromString(before.document)
    _apply(node, event)
    node.position = event.position
    return NodeRow(
        node_id=node_id,
        position=event.position,
        version=event.envelope.stream_version,
        last_event_id=event.envelope.event_id,
        document=node.SerializeToString(deterministic=True),
    )


def _apply(node: Node, event: RecordedEvent) -> None:
    message, occurred_at = event.message, event.envelope.occurred_at
    match message:
        case ev.NodeEnrolled():
            node.inventory.CopyFrom(message.inventory)
            node.enrolled_at.CopyFrom(occurred_at)
        case ev.NodeInventoryChanged():
            node.inventory.CopyFrom(message.inventory)
        case ev.NodeAttached():
            node.state = NodeState.NODE_STATE_ATTACHED
            node.attached_at.CopyFrom(occurred_at)
            node.inventory.boot_id = message.boot_id
            node.inventory.agent_version = message.agent_version
        case ev.NodeDetached():
            node.state = NodeState.NODE_STATE_DETACHED
            node.detached_at.CopyFrom(occurred_at)
        case ev.NodeGpusReserved():
            node.reservations.add(
                lease_id=message.lease_id,
                run_id=message.run_id,
                attempt=message.attempt,
                gpu_uuids=message.gpu_uuids,
                reserved_at=occurred_at,
            )
        case ev.NodeGpusReleased():
            kept = [held for held in node.reservations if held.lease_id != message.lease_id]
            del node.reservations[:]
            node.reservations.extend(kept)
        case _:
            pass
