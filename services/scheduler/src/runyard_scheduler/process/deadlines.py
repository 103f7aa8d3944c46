"""Which deadlines of leases and nodes have passed at a monotonic time: pure.

Leases are durations: the scheduler counts from when it last answered a renewal, the agent from when it
sent that renewal, so that the agent's end is always the earlier one and clocks need not agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runyard_contracts.ids import NodeId, RunId


@dataclass(frozen=True, slots=True)
class Limits:
    """How long silence may last."""

    unreachable_seconds: float
    requeue_margin_seconds: float
    """Time for a node's shim to end an attempt whose lease ran out, on top of the run's stop grace."""


@dataclass(frozen=True, slots=True)
class LeaseWatch:
    """A live lease, as the clock watcher sees it."""

    run_id: RunId
    node_id: NodeId
    epoch: int
    heard_at_seconds: float
    """Monotonic time from which the lease counts."""
    lease_seconds: float
    stop_grace_seconds: float
    reachable: bool
    expired: bool
    requeues: bool
    disowned: bool
    """The node is heard from, and says that it does not hold this attempt."""
    revoked: bool = False
    """The node was thrown out of the yard, and cannot come back to tell of it."""


@dataclass(frozen=True, slots=True)
class NodeWatch:
    """An attached node, as the clock watcher sees it."""

    node_id: NodeId
    heard_at_seconds: float
    stream_open: bool


@dataclass(frozen=True, slots=True)
class Unreachable:
    """An attempt was not heard of for a while."""

    run_id: RunId
    epoch: int
    silent_milliseconds: int


@dataclass(frozen=True, slots=True)
class Expired:
    """A lease ran out."""

    run_id: RunId
    epoch: int
    silent_milliseconds: int


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt has surely ended without a report."""

    run_id: RunId
    epoch: int
    detail: str


@dataclass(frozen=True, slots=True)
class Silent:
    """A node was not heard from for a while."""

    node_id: NodeId
    reason: str
    silent_milliseconds: int


Due = Unreachable | Expired | Lost | Silent


def due(
    leases: Iterable[LeaseWatch], nodes: Iterable[NodeWatch], limits: Limits, now_seconds: float
) -> list[Due]:
    """Give what has passed its deadline at a monotonic time, in the order in which it is to be recorded.

    At most one step for each lease and node.
    """
    steps = _steps(leases, nodes, limits, now_seconds)
    return [what for at_seconds, what in steps if at_seconds <= now_seconds]


def next_due_seconds(
    leases: Iterable[LeaseWatch], nodes: Iterable[NodeWatch], limits: Limits
) -> float | None:
    """Give the monotonic time of the next deadline; None when there is none."""
    return min((at_seconds for at_seconds, _ in _steps(leases, nodes, limits, 0.0)), default=None)


def _steps(
    leases: Iterable[LeaseWatch], nodes: Iterable[NodeWatch], limits: Limits, now_seconds: float
) -> Iterator[tuple[float, Due]]:
    # Nodes first: the silence of a node is what makes its attempts unreachable.
    for node in nodes:
        reason = "silent" if node.stream_open else "closed"
        silent = _milliseconds(now_seconds - node.heard_at_seconds)
        yield node.heard_at_seconds + limits.unreachable_seconds, Silent(node.node_id, reason, silent)
    for lease in leases:
        step = _lease_step(lease, limits, now_seconds)
        if step is not None:
            yield step


def _lease_step(lease: LeaseWatch, limits: Limits, now_seconds: float) -> tuple[float, Due] | None:
    """Give the one thing that can become due next for a lease: each step opens the way for the next."""
    heard = lease.heard_at_seconds
    silent = _milliseconds(now_seconds - heard)
    if lease.reachable:
        return heard + limits.unreachable_seconds, Unreachable(lease.run_id, lease.epoch, silent)
    if not lease.expired:
        return heard + lease.lease_seconds, Expired(lease.run_id, lease.epoch, silent)
    if lease.disowned:
        detail = f"node {lease.node_id} came back without the attempt"
        return heard + lease.lease_seconds, Lost(lease.run_id, lease.epoch, detail)
    if lease.requeues or lease.revoked:
        margin = lease.stop_grace_seconds + limits.requeue_margin_seconds
        what = "was revoked" if lease.revoked else "was not heard from for the whole lease"
        detail = f"node {lease.node_id} {what}"
        return heard + lease.lease_seconds + margin, Lost(lease.run_id, lease.epoch, detail)
    return None


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
