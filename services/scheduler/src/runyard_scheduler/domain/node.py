"""Stream ``node-<id>``: a machine's coming and going, and what leases hold on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from google.protobuf.message import Message

from runyard.agent.v1.agent_service_pb2 import ForeignProcess
from runyard.node.v1 import events_pb2 as ev
from runyard.node.v1.types_pb2 import NodeInventory
from runyard_contracts.ids import LeaseId, NodeId, RunId
from runyard_core.decider import Decider
from runyard_core.errors import Rejected
from runyard_scheduler.domain import node_access
from runyard_scheduler.domain.node_access import NOBODY, Access, Enroll, Invite, Revoke, access_after

_NO_NODE = NodeId("")

ForeignKey = tuple[str, int]
"""UUID of a GPU, process id."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a lease holds: a slot, and these GPUs."""

    lease_id: LeaseId
    run_id: RunId
    attempt: int
    gpu_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """What decisions need to know of one node."""

    node_id: NodeId = _NO_NODE
    inventory: NodeInventory | None = None
    """None before the node has enrolled."""
    attached: bool = False
    reservations: tuple[Reservation, ...] = ()
    foreign_processes: frozenset[ForeignKey] = frozenset()
    """Processes of no attempt that hold GPU memory."""
    access: Access = NOBODY
    """How a machine becomes this node."""

    @property
    def is_member(self) -> bool:
        """Say whether it is part of the yard: it has enrolled, and was not revoked."""
        return self.inventory is not None and not self.access.revoked

    @property
    def foreign_gpu_uuids(self) -> frozenset[str]:
        """GPUs that a process of no attempt uses; no lease holds them because of that."""
        return frozenset(gpu_uuid for gpu_uuid, _ in self.foreign_processes)

    @property
    def unusable_gpu_uuids(self) -> frozenset[str]:
        """GPUs that the node's agent says cannot be used: lost, in need of a reset, cut into slices."""
        if self.inventory is None:
            return frozenset()
        return frozenset(gpu.uuid for gpu in self.inventory.gpus if gpu.unusable_reason)

    @property
    def reserved_gpu_uuids(self) -> frozenset[str]:
        """GPUs that a lease holds."""
        return frozenset(uuid for held in self.reservations for uuid in held.gpu_uuids)

    @property
    def free_gpu_uuids(self) -> tuple[str, ...]:
        """GPUs that no lease holds, by index."""
        if self.inventory is None:
            return ()
        reserved = self.reserved_gpu_uuids
        by_index = sorted(self.inventory.gpus, key=lambda gpu: (gpu.index, gpu.uuid))
        return tuple(gpu.uuid for gpu in by_index if gpu.uuid not in reserved)

    @property
    def free_slot_count(self) -> int:
        """How many more attempts may run at once; below 0 when the node's limit was lowered."""
        return 0 if self.inventory is None else self.inventory.slot_count - len(self.reservations)


@dataclass(frozen=True, slots=True)
class Attach:
    """The node's agent opened its stream and said what the node has."""

    node_id: NodeId
    inventory: NodeInventory


@dataclass(frozen=True, slots=True)
class ChangeInventory:
    """The node's agent says what the node has now."""

    inventory: NodeInventory


@dataclass(frozen=True, slots=True)
class Detach:
    """The node's agent was not heard from for a while."""

    reason: str
    """"silent", or "closed" when its stream had ended."""
    silent_milliseconds: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """A lease takes a slot and these GPUs."""

    lease_id: LeaseId
    run_id: RunId
    attempt: int
    gpu_uuids: tuple[str, ...]
    project: str


@dataclass(frozen=True, slots=True)
class Release:
    """A lease gives back what it holds."""

    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class SeeForeignProcess:
    """The node's agent saw a process that belongs to no attempt hold GPU memory, or leave."""

    seen: ForeignProcess


NodeCommand = (
    Attach | ChangeInventory | Detach | Reserve | Release | SeeForeignProcess | Invite | Enroll | Revoke
)


def decide(node: Node, command: NodeCommand) -> list[Message]:
    """Give the events that a command makes; an empty list when it is already so.

    Raises:
        Rejected: the domain says no (NODE_NOT_FOUND, NODE_REVOKED, GPU_TAKEN, NO_FREE_SLOT, and what
            ``node_access`` says).
    """
    if isinstance(command, Attach):
        return _attach(node, command)
    if isinstance(command, Invite | Enroll | Revoke):
        return _decide_access(node, command)
    if node.inventory is None:
        raise Rejected("the node has not enrolled", code="NODE_NOT_FOUND")
    match command:
        case ChangeInventory(inventory):
            return _change_inventory(node, node.inventory, inventory)
        case Detach(reason, silent):
            if not node.attached:
                return []
            return [ev.NodeDetached(node_id=node.node_id, reason=reason, silent_milliseconds=silent)]
        case Reserve():
            return _reserve(node, node.inventory, command)
        case Release(lease_id):
            return [_released(node, held) for held in node.reservations if held.lease_id == lease_id]
        case SeeForeignProcess(seen):
            return [_foreign(node, seen)]
        case _:
            assert_never(command)


def evolve(node: Node, event: Message) -> Node:
    """Give the state after an event; one that this code does not know leaves it as it is."""
    match event:
        case ev.NodeEnrolled():
            return replace(node, node_id=NodeId(event.node_id), inventory=event.inventory)
        case ev.NodeInventoryChanged():
            return replace(_booted(node, event.inventory.boot_id), inventory=event.inventory)
        case ev.NodeAttached():
            inventory = _attached_inventory(node.inventory, event)
            return replace(_booted(node, event.boot_id), attached=True, inventory=inventory)
        case ev.NodeDetached():
            return replace(node, attached=False)
        case ev.NodeGpusReserved():
            reservation = Reservation(
                lease_id=LeaseId(event.lease_id),
                run_id=RunId(event.run_id),
                attempt=event.attempt,
                gpu_uuids=tuple(event.gpu_uuids),
            )
            return replace(node, reservations=(*node.reservations, reservation))
        case ev.NodeGpusReleased():
            kept = tuple(held for held in node.reservations if held.lease_id != event.lease_id)
            return replace(node, reservations=kept)
        case ev.NodeForeignProcessSeen():
            others = node.foreign_processes - {(event.gpu_uuid, event.pid)}
            return replace(
                node, foreign_processes=others if event.gone else others | {(event.gpu_uuid, event.pid)}
            )
        case ev.NodeInvited() | ev.NodeCredentialIssued() | ev.NodeRevoked():
            node_id = NodeId(event.node_id)
            return replace(node, node_id=node_id, access=access_after(node.access, event))
        case _:
            return node


NODE: Decider[Node, NodeCommand, Message] = Decider(initial=Node(), decide=decide, evolve=evolve)


def _decide_access(node: Node, command: Invite | Enroll | Revoke) -> list[Message]:
    match command:
        case Invite():
            return node_access.invite(node.access, command, attached=node.attached)
        case Enroll():
            return [*node_access.enroll(node.access, command), *_described(node, command)]
        case Revoke():
            if node.inventory is None and not node.access.is_known:
                raise Rejected(f"there is no node {command.node_id}", code="NODE_NOT_FOUND")
            return node_access.revoke(node.access, command, attached=node.attached)
        case _:
            assert_never(command)


def _attach(node: Node, command: Attach) -> list[Message]:
    if node.access.revoked:
        raise Rejected(f"node {command.node_id} was revoked", code="NODE_REVOKED")
    inventory = command.inventory
    attached = ev.NodeAttached(
        node_id=command.node_id, boot_id=inventory.boot_id, agent_version=inventory.agent_version
    )
    if node.inventory is None:
        return [ev.NodeEnrolled(node_id=command.node_id, inventory=inventory), attached]
    events = _change_inventory(node, node.inventory, inventory)
    known = (node.inventory.boot_id, node.inventory.agent_version)
    if not node.attached or known != (inventory.boot_id, inventory.agent_version):
        events.append(attached)
    return events


def _described(node: Node, command: Enroll) -> list[Message]:
    """Say what an enrolled machine has, where that is news."""
    if node.inventory is None:
        return [ev.NodeEnrolled(node_id=command.node_id, inventory=command.inventory)]
    return _change_inventory(node, node.inventory, command.inventory)


def _attached_inventory(inventory: NodeInventory | None, event: ev.NodeAttached) -> NodeInventory:
    now = NodeInventory()
    if inventory is not None:
        now.CopyFrom(inventory)
    now.boot_id = event.boot_id
    now.agent_version = event.agent_version
    return now


def _booted(node: Node, boot_id: str) -> Node:
    """Forget the processes of an earlier boot: nobody is left to tell that they are gone."""
    same = node.inventory is None or node.inventory.boot_id == boot_id
    return node if same else replace(node, foreign_processes=frozenset())


def _change_inventory(node: Node, known: NodeInventory, seen: NodeInventory) -> list[Message]:
    if _lasting(known) == _lasting(seen):
        return []
    return [ev.NodeInventoryChanged(node_id=node.node_id, inventory=seen)]


def _lasting(inventory: NodeInventory) -> NodeInventory:
    """Leave out what is a measurement (free disk) or belongs to the attachment (boot, version)."""
    lasting = NodeInventory()
    lasting.CopyFrom(inventory)
    for name in ("disk_free_bytes", "boot_id", "agent_version"):
        lasting.ClearField(name)
    return lasting


def _reserve(node: Node, inventory: NodeInventory, command: Reserve) -> list[Message]:
    if any(held.lease_id == command.lease_id for held in node.reservations):
        return []
    taken = set(command.gpu_uuids) - set(node.free_gpu_uuids)
    if taken:
        raise Rejected(f"node {node.node_id}: not free: {', '.join(sorted(taken))}", code="GPU_TAKEN")
    if node.free_slot_count < 1:
        raise Rejected(f"node {node.node_id} has no free slot", code="NO_FREE_SLOT")
    models = {gpu.uuid: gpu.model for gpu in inventory.gpus}
    return [
        ev.NodeGpusReserved(
            node_id=node.node_id,
            lease_id=command.lease_id,
            run_id=command.run_id,
            attempt=command.attempt,
            gpu_uuids=command.gpu_uuids,
            project=command.project,
            gpu_models=[models[uuid] for uuid in command.gpu_uuids],
        )
    ]


def _released(node: Node, held: Reservation) -> ev.NodeGpusReleased:
    return ev.NodeGpusReleased(
        node_id=node.node_id,
        lease_id=held.lease_id,
        run_id=held.run_id,
        attempt=held.attempt,
        gpu_uuids=held.gpu_uuids,
    )


def _foreign(node: Node, seen: ForeignProcess) -> ev.NodeForeignProcessSeen:
    return ev.NodeForeignProcessSeen(
        node_id=node.node_id,
        gpu_uuid=seen.gpu_uuid,
        pid=seen.pid,
        process_name=seen.process_name,
        memory_bytes=seen.memory_bytes,
        gone=seen.gone,
    )
