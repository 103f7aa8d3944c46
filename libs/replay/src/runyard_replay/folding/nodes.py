"""A node and its foreign processes as people are shown them, folded from the events of its stream."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.node.v1 import events_pb2 as ev
from runyard.node.v1.types_pb2 import Node, NodeState
from runyard_contracts.ids import stream_id
from runyard_contracts.recorded import RecordedEvent

ForeignProcesses = Mapping[tuple[str, int], ev.NodeForeignProcessSeen]
"""(GPU, process id) -> the process, as last seen."""


def node_after(node: Node | None, event: RecordedEvent) -> Node:
    """Give the node after the next event of its stream; the one given is not changed."""
    after = Node(node_id=stream_id(event.envelope.stream))
    if node is not None:
        after.CopyFrom(node)
    apply_to_node(after, event)
    return after


def apply_to_node(node: Node, event: RecordedEvent) -> None:
    """Change a node by the next event of its stream; one with nothing but its id by the first."""
    _apply(node, event)
    node.position = event.position


def foreign_after(processes: ForeignProcesses, event: RecordedEvent) -> ForeignProcesses:
    """Give the processes of nobody's attempt that hold GPU memory after the next event of a node."""
    seen = event.message
    if not isinstance(seen, ev.NodeForeignProcessSeen):
        return processes
    key = (seen.gpu_uuid, seen.pid)
    others = {known: process for known, process in processes.items() if known != key}
    return others if seen.gone else {**others, key: seen}


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
            if node.state != NodeState.NODE_STATE_REVOKED:
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
            for index in reversed(range(len(node.reservations))):
                if node.reservations[index].lease_id == message.lease_id:
                    del node.reservations[index]
        case ev.NodeInvited() | ev.NodeCredentialIssued() | ev.NodeRevoked():
            _apply_access(node, message, occurred_at)
        case _:
            pass


def _apply_access(
    node: Node, message: ev.NodeInvited | ev.NodeCredentialIssued | ev.NodeRevoked, at: Timestamp
) -> None:
    access = node.access
    match message:
        case ev.NodeInvited():
            access.token_sha256 = message.token_sha256
            access.token_expires_at.CopyFrom(message.expires_at)
            access.token_spent = False
            if node.state == NodeState.NODE_STATE_UNSPECIFIED:
                node.state = NodeState.NODE_STATE_INVITED
        case ev.NodeCredentialIssued():
            access.token_spent = True
            access.credential_sha256 = message.credential_sha256
            access.credential_issued_at.CopyFrom(at)
            access.ClearField("revoked_at")
            if node.state != NodeState.NODE_STATE_ATTACHED:
                node.state = NodeState.NODE_STATE_DETACHED
        case ev.NodeRevoked():
            access.token_spent = True
            access.ClearField("credential_sha256")
            access.revoked_at.CopyFrom(at)
            node.state = NodeState.NODE_STATE_REVOKED
