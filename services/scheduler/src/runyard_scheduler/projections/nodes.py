"""Table ``node``: one row for each event of a node, with the whole document."""

from __future__ import annotations

from dataclasses import dataclass

from runyard.node.v1.types_pb2 import Node
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import TableSpec
from runyard_replay.folding.nodes import node_after


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


def node_row(before: NodeRow | None, event: RecordedEvent) -> NodeRow:
    """Give the row after an event of a node's stream."""
    node = node_after(None if before is None else Node.FromString(before.document), event)
    return NodeRow(
        node_id=node.node_id,
        position=event.position,
        version=event.envelope.stream_version,
        last_event_id=event.envelope.event_id,
        document=node.SerializeToString(deterministic=True),
    )
