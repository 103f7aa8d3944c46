"""Which deadlines have passed at a monotonic time."""

from __future__ import annotations

from dataclasses import replace

from runyard_contracts.ids import NodeId, RunId
from runyard_scheduler.process.deadlines import (
    Expired,
    LeaseWatch,
    Limits,
    Lost,
    NodeWatch,
    Silent,
    Unreachable,
    due,
    next_due_seconds,
)

LIMITS = Limits(unreachable_seconds=10, requeue_margin_seconds=15)
RUN = RunId("run")
LEASE = LeaseWatch(
    run_id=RUN,
    node_id=NodeId("node-1"),
    epoch=3,
    heard_at_seconds=100,
    lease_seconds=60,
    stop_grace_seconds=5,
    reachable=True,
    expired=False,
    requeues=False,
    disowned=False,
)
SILENT = replace(LEASE, reachable=False)
GONE = replace(SILENT, expired=True)


def test_nothing_is_due_before_its_time() -> None:
    assert due([LEASE], [], LIMITS, 109.9) == []
    assert next_due_seconds([LEASE], [], LIMITS) == 110


def test_an_attempt_becomes_unreachable_then_its_lease_expires() -> None:
    assert due([LEASE], [], LIMITS, 110) == [Unreachable(RUN, 3, 10_000)]
    assert due([SILENT], [], LIMITS, 159) == []
    assert due([SILENT], [], LIMITS, 160) == [Expired(RUN, 3, 60_000)]


def test_an_expired_lease_waits_for_ever_by_default() -> None:
    assert due([GONE], [], LIMITS, 1e9) == []
    assert next_due_seconds([GONE], [], LIMITS) is None


def test_requeue_waits_for_grace_and_margin_after_the_expiry() -> None:
    lease = replace(GONE, requeues=True)
    assert due([lease], [], LIMITS, 179) == []
    (lost,) = due([lease], [], LIMITS, 180)
    assert isinstance(lost, Lost)
    assert (lost.run_id, lost.epoch) == (RUN, 3)


def test_an_expired_attempt_that_its_node_does_not_know_is_lost_at_once() -> None:
    (lost,) = due([replace(GONE, disowned=True)], [], LIMITS, 160)
    assert isinstance(lost, Lost)
    assert due([replace(LEASE, disowned=True)], [], LIMITS, 109) == []


def test_a_silent_node_is_detached_and_says_whether_its_stream_was_open() -> None:
    opened = NodeWatch(NodeId("a"), 100, stream_open=True)
    closed = NodeWatch(NodeId("b"), 100, stream_open=False)
    assert due([], [opened, closed], LIMITS, 110) == [
        Silent(NodeId("a"), "silent", 10_000),
        Silent(NodeId("b"), "closed", 10_000),
    ]
    assert next_due_seconds([LEASE], [replace(opened, heard_at_seconds=90)], LIMITS) == 100


def test_a_revoked_node_never_comes_back_so_its_attempts_are_given_up() -> None:
    lease = replace(GONE, revoked=True)
    assert due([lease], [], LIMITS, 179) == []
    (lost,) = due([lease], [], LIMITS, 180)
    assert isinstance(lost, Lost)
    assert lost.detail == "node node-1 was revoked"
