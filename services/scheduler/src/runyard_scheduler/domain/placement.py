"""Which queued run goes to which node, and why the others wait: a pure plan over the whole yard.

Order is priority, then first come. Runs behind one that cannot be placed may overtake it, so that no GPU
idles for nothing; but a run that has waited ``CLAIM_AFTER`` keeps the node that is nearest to fitting it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from runyard.run.v1.types_pb2 import Executor, RunSpec
from runyard_contracts.ids import NodeId, RunId
from runyard_core.errors import Rejected
from runyard_scheduler.domain.node import Node

CLAIM_AFTER = timedelta(minutes=10)
"""How long smaller runs may overtake one that waits for many GPUs."""

_DRAINED = "RUNYARD_SLOT_COUNT=0"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """What a node must have; runs with the same requirement are placed, or wait, for the same reason."""

    gpu_count: int
    docker: bool

    @classmethod
    def of(cls, spec: RunSpec) -> Requirement:
        """Give the requirement of a spec."""
        return cls(spec.resources.gpu_count, spec.executor == Executor.EXECUTOR_DOCKER)


@dataclass(frozen=True, slots=True)
class QueuedRun:
    """A run that waits."""

    run_id: RunId
    requirement: Requirement
    priority: int
    order: int
    """Grows in the order of queueing; kept when the run is queued again."""
    queued_at: datetime

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts first what goes first."""
        return (-self.priority, self.order)


@dataclass(frozen=True, slots=True)
class Supply:
    """What a node has and what of it is free."""

    node_id: NodeId
    gpu_count: int
    free_gpu_uuids: tuple[str, ...]
    """Held by no lease, used by no process of others, and fit for use."""
    slot_count: int
    free_slot_count: int
    docker: bool
    attached: bool
    """Its agent's stream is open: only then can a grant reach it."""
    foreign_gpu_count: int = 0
    """GPUs that only processes of others keep from being free."""
    unusable_gpu_count: int = 0
    """GPUs that no lease holds and that cannot be used."""

    @classmethod
    def of(cls, node: Node, *, attached: bool) -> Supply:
        """Give the supply of a node."""
        inventory, unusable = node.inventory, node.unusable_gpu_uuids
        foreign = node.foreign_gpu_uuids - unusable
        return cls(
            node_id=node.node_id,
            gpu_count=0 if inventory is None else len(inventory.gpus),
            free_gpu_uuids=tuple(uuid for uuid in node.free_gpu_uuids if uuid not in foreign | unusable),
            slot_count=0 if inventory is None else inventory.slot_count,
            free_slot_count=node.free_slot_count,
            docker=inventory is not None and bool(inventory.docker_version),
            attached=attached,
            foreign_gpu_count=len(foreign.intersection(node.free_gpu_uuids)),
            unusable_gpu_count=len(unusable.intersection(node.free_gpu_uuids)),
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """A run, the node it goes to, and the GPUs it gets there."""

    run_id: RunId
    node_id: NodeId
    gpu_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now."""

    placements: tuple[Placement, ...]
    waiting: Mapping[Requirement, str]
    """Why the runs of a requirement that are not placed wait, one sentence each."""


def plan(queue: Mapping[Requirement, Sequence[QueuedRun]], nodes: Sequence[Supply], now: datetime) -> Plan:
    """Place what can be placed.

    Args:
        queue: the waiting runs of each requirement, sorted by rank.
        nodes: every enrolled node.
        now: the time of day.
    """
    yard = _Yard({node.node_id: node for node in nodes})
    placements: list[Placement] = []
    waiting: dict[Requirement, str] = {}
    # One head for each requirement: once one waits, all behind it with the same requirement do too.
    heads = [(runs[0].rank, requirement, 0) for requirement, runs in queue.items() if runs]
    heapq.heapify(heads)
    while heads:
        _, requirement, index = heapq.heappop(heads)
        runs = queue[requirement]
        placement = yard.place(runs[index])
        if placement is None:
            if requirement not in waiting:
                waiting[requirement] = yard.why_not(requirement)
            if now - runs[index].queued_at >= CLAIM_AFTER:
                yard.claim(requirement)
            elif (behind := _next_priority(runs, index)) < len(runs):
                # It is not placed either, but may have waited long enough to keep a node.
                heapq.heappush(heads, (runs[behind].rank, requirement, behind))
            continue
        placements.append(placement)
        if index + 1 < len(runs):
            heapq.heappush(heads, (runs[index + 1].rank, requirement, index + 1))
    return Plan(tuple(placements), waiting)


def _next_priority(runs: Sequence[QueuedRun], index: int) -> int:
    """Give the index of the first run of a lower priority; of one priority the first has waited longest."""
    return bisect_right(runs, -runs[index].priority, lo=index, key=lambda run: -run.priority)


def check_possible(requirement: Requirement, nodes: Sequence[Supply]) -> None:
    """Refuse what no enrolled node could ever run; with no node enrolled anything may queue.

    Raises:
        Rejected: IMPOSSIBLE_RESOURCES; the message names the largest node.
    """
    if not nodes or any(node.gpu_count >= requirement.gpu_count for node in nodes):
        return
    largest = max(nodes, key=lambda node: node.gpu_count)
    raise Rejected(
        f"no node can ever give {_gpus(requirement.gpu_count)} at once: "
        f"the largest, {largest.node_id}, has {_gpus(largest.gpu_count)}; ask for fewer",
        code="IMPOSSIBLE_RESOURCES",
        metadata={"largest_node": largest.node_id, "gpu_count_max": str(largest.gpu_count)},
    )


def what_is_lacking(wanted: Requirement, nodes: Sequence[Supply]) -> str:
    """Say why no node of the yard can ever run it as they are; empty when one can.

    Such a run came before its node: it waits, as nodes enroll one by one and the first is seldom the largest.
    """
    if not nodes:
        return "No node has enrolled yet."
    largest = max(nodes, key=lambda node: node.gpu_count)
    if largest.gpu_count >= wanted.gpu_count:
        return ""
    return (
        f"Needs {_gpus(wanted.gpu_count)} on one node, and no node of the yard has that many: "
        f"the largest, {largest.node_id}, has {_gpus(largest.gpu_count)}. "
        "It waits for a larger node to enroll."
    )


@dataclass(slots=True)
class _Yard:
    """The nodes as they become while a plan is made."""

    nodes: dict[NodeId, Supply]
    claimed: set[NodeId] = field(default_factory=set)

    def place(self, run: QueuedRun) -> Placement | None:
        wanted = run.requirement
        fitting = [node for node in self._open(wanted) if len(node.free_gpu_uuids) >= wanted.gpu_count]
        if not fitting:
            return None
        best = min(fitting, key=_fit)
        taken = best.free_gpu_uuids[: wanted.gpu_count]
        self.nodes[best.node_id] = replace(
            best,
            free_gpu_uuids=best.free_gpu_uuids[wanted.gpu_count :],
            free_slot_count=best.free_slot_count - 1,
        )
        return Placement(run.run_id, best.node_id, taken)

    def claim(self, wanted: Requirement) -> None:
        """Keep the node that is nearest to fitting for the run that cannot be placed yet."""
        able = [
            node
            for node in self.nodes.values()
            if node.attached
            and node.slot_count
            and node.node_id not in self.claimed
            # One whose GPUs others use, or nobody can, is not freed by waiting for runs to end.
            and node.gpu_count - node.foreign_gpu_count - node.unusable_gpu_count >= wanted.gpu_count
            and (node.docker or not wanted.docker)
        ]
        if able:
            nearest = max(
                able, key=lambda node: (len(node.free_gpu_uuids), node.free_slot_count, node.node_id)
            )
            self.claimed.add(nearest.node_id)

    def why_not(self, wanted: Requirement) -> str:
        nodes = list(self.nodes.values())
        if lacking := what_is_lacking(wanted, nodes):
            return lacking
        attached = [node for node in nodes if node.attached]
        if not attached:
            return f"No node is attached now ({_names(nodes)} enrolled)."
        taking = [node for node in attached if node.slot_count]
        if not taking:
            return f"{_names(attached)} {'takes' if len(attached) == 1 else 'take'} no new runs ({_DRAINED})."
        able = [node for node in taking if node.docker or not wanted.docker]
        if not able:
            return f"Needs Docker, which no attached node has ({_names(attached)})."
        if all(node.gpu_count < wanted.gpu_count for node in able):
            large = [node for node in nodes if node.gpu_count >= wanted.gpu_count]
            away = [node for node in large if not node.attached and (node.docker or not wanted.docker)]
            also = f", and {_names(away)} is not attached now" if away else ""
            if any(node.attached and node.slot_count for node in large):
                # It has no Docker, or it would be able.
                both = f"Docker and {_gpus(wanted.gpu_count)} on one node"
                return f"Needs {both}; no attached node has both{also}."
            return f"Needs {_gpus(wanted.gpu_count)} on one node; no attached node has that many{also}."
        usable = [node for node in able if node.node_id not in self.claimed]
        with_gpus = [node for node in usable if len(node.free_gpu_uuids) >= wanted.gpu_count]
        if with_gpus:
            return f"Every slot of {_names(with_gpus)} is taken."
        if not usable or all(node.gpu_count < wanted.gpu_count for node in usable):
            return f"{_names(able)} is kept for a run that has waited longer."
        most = max(usable, key=lambda node: (len(node.free_gpu_uuids), node.gpu_count))
        return (
            f"Needs {_gpus(wanted.gpu_count)} on one node; "
            f"the most free now is {len(most.free_gpu_uuids)} of {most.gpu_count} on {most.node_id}"
            f"{_kept_by_others(most)}."
        )

    def _open(self, wanted: Requirement) -> list[Supply]:
        return [
            node
            for node in self.nodes.values()
            if node.attached
            and node.free_slot_count > 0
            and node.node_id not in self.claimed
            and (node.docker or not wanted.docker)
        ]


def _fit(node: Supply) -> tuple[int, int, int, str]:
    """Sort the best fit first: large nodes stay whole, and runs without GPUs go where GPUs are fewest."""
    return (len(node.free_gpu_uuids), node.gpu_count, -node.free_slot_count, node.node_id)


def _kept_by_others(node: Supply) -> str:
    reasons = [
        f"{_gpus(count)} {'is' if count == 1 else 'are'} {why}"
        for count, why in (
            (node.foreign_gpu_count, "used by processes that belong to no run"),
            (node.unusable_gpu_count, "not fit for use (see `runyard gpus`)"),
        )
        if count
    ]
    return f", where {' and '.join(reasons)}" if reasons else ""


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _names(nodes: Sequence[Supply]) -> str:
    names = sorted(node.node_id for node in nodes)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
