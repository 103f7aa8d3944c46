"""Which run goes where, and why the others wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from runyard_contracts.ids import NodeId, RunId
from runyard_core.errors import Rejected
from runyard_scheduler.domain.placement import (
    CLAIM_AFTER,
    Plan,
    QueuedRun,
    Requirement,
    Supply,
    check_possible,
    plan,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def supply(
    name: str,
    free: int,
    total: int | None = None,
    *,
    slots: int = 8,
    docker: bool = False,
    attached: bool = True,
) -> Supply:
    uuids = tuple(f"{name}-GPU-{index}" for index in range(free))
    return Supply(NodeId(name), free if total is None else total, uuids, 8, slots, docker, attached)


def waits(
    name: str,
    gpus: int,
    *,
    priority: int = 0,
    order: int = 0,
    since: timedelta = timedelta(0),
    docker: bool = False,
) -> QueuedRun:
    return QueuedRun(RunId(name), Requirement(gpus, docker), priority, order, NOW - since)


def planned(queue: Sequence[QueuedRun], nodes: Sequence[Supply]) -> Plan:
    buckets: dict[Requirement, list[QueuedRun]] = {}
    for run in sorted(queue, key=lambda run: run.rank):
        buckets.setdefault(run.requirement, []).append(run)
    return plan(buckets, nodes, NOW)


def where(made: Plan) -> dict[str, str]:
    return {placement.run_id: placement.node_id for placement in made.placements}


def test_higher_priority_goes_first_then_first_come() -> None:
    queue = [waits("late", 1, order=3), waits("early", 1, order=1), waits("urgent", 1, priority=5, order=9)]
    made = planned(queue, [supply("a", 2)])
    assert [placement.run_id for placement in made.placements] == ["urgent", "early"]


def test_the_best_fit_keeps_large_nodes_whole() -> None:
    made = planned(
        [waits("small", 1), waits("large", 4, order=1)], [supply("big", 4), supply("little", 2, 2)]
    )
    assert where(made) == {"small": "little", "large": "big"}


def test_a_run_without_gpus_takes_a_slot_where_gpus_are_fewest() -> None:
    assert where(planned([waits("cpu", 0)], [supply("gpus", 4), supply("plain", 0)])) == {"cpu": "plain"}


def test_a_node_without_any_slot_takes_no_new_run_and_is_kept_for_none() -> None:
    drained = replace(supply("a", 4), slot_count=0, free_slot_count=-1)
    alone = planned([waits("run", 1)], [drained])
    assert alone.waiting[Requirement(1, docker=False)] == "a takes no new runs (RUNYARD_SLOT_COUNT=0)."
    patient = waits("wide", 4, since=CLAIM_AFTER)
    beside = planned([patient], [drained, supply("b", 3, total=4)])
    assert "the most free now is 3 of 4 on b" in beside.waiting[Requirement(4, docker=False)]


def test_a_reason_names_three_nodes_and_counts_the_others() -> None:
    away = [replace(supply(name, 1), attached=False) for name in ("e", "d", "c", "b", "a")]
    made = planned([waits("run", 1)], away)
    assert (
        made.waiting[Requirement(1, docker=False)] == "No node is attached now (a, b, c and 2 more enrolled)."
    )
    made = planned([waits("run", 1)], away[:3])
    assert made.waiting[Requirement(1, docker=False)] == "No node is attached now (c, d, e enrolled)."


def test_a_gpu_run_needs_a_slot_too() -> None:
    made = planned([waits("run", 1)], [supply("a", 2, slots=0)])
    assert made.waiting[Requirement(1, docker=False)] == "Every slot of a is taken."


def test_docker_runs_go_to_nodes_with_docker() -> None:
    nodes = [supply("bare", 1), supply("docked", 1, docker=True)]
    assert where(planned([waits("run", 1, docker=True)], nodes)) == {"run": "docked"}
    made = planned([waits("run", 1, docker=True)], nodes[:1])
    assert "Docker" in made.waiting[Requirement(1, docker=True)]


def test_a_reason_does_not_deny_gpus_that_are_there_without_docker() -> None:
    nodes = [supply("bare", 4), supply("docked", 2, docker=True)]
    away = replace(supply("away", 4), attached=False)
    made = planned([waits("run", 4, docker=True)], [*nodes, away])
    assert (
        made.waiting[Requirement(4, docker=True)]
        == "Needs Docker and 4 GPUs on one node; no attached node has both."
    )
    far = replace(away, docker=True)
    made = planned([waits("run", 4, docker=True)], [*nodes, far])
    assert "no attached node has both, and away is not attached" in made.waiting[Requirement(4, docker=True)]


def test_smaller_runs_overtake_one_that_cannot_be_placed() -> None:
    queue = [waits("large", 4, order=1), waits("small", 1, order=2)]
    assert where(planned(queue, [supply("a", 2, 4)])) == {"small": "a"}


def test_a_run_that_waited_long_keeps_the_node_it_needs() -> None:
    queue = [waits("large", 4, order=1, since=CLAIM_AFTER), waits("small", 1, order=2)]
    made = planned(queue, [supply("a", 2, 4)])
    assert where(made) == {}
    assert made.waiting[Requirement(1, docker=False)] == "a is kept for a run that has waited longer."


def test_a_run_that_waited_long_keeps_its_node_also_behind_one_that_has_just_come() -> None:
    large = waits("large", 4, order=1, since=CLAIM_AFTER)
    newer = waits("newer", 4, priority=5, order=3)
    small = waits("small", 1, order=2)
    made = planned([large, newer, small], [supply("a", 2, 4)])
    assert where(made) == {}
    assert "the most free now is 2 of 4 on a" in made.waiting[Requirement(4, docker=False)]
    # Who goes before the one that waited is still not held up.
    assert where(planned([large, newer, replace(small, priority=1)], [supply("a", 2, 4)])) == {"small": "a"}


def test_gpus_that_no_ending_run_frees_are_kept_for_nobody() -> None:
    queue = [waits("large", 4, order=1, since=CLAIM_AFTER), waits("small", 1, order=2)]
    part = supply("broken", 3, 4)
    for broken in (replace(part, unusable_gpu_count=1), replace(part, foreign_gpu_count=1)):
        assert where(planned(queue, [broken])) == {"small": "broken"}
        # The node that can come free for it is the one to keep, however few of its GPUs are free now.
        assert where(planned(queue, [broken, supply("sound", 1, 4)])) == {"small": "broken"}


def test_a_claim_never_holds_up_who_goes_first() -> None:
    queue = [waits("large", 4, order=1, since=CLAIM_AFTER), waits("urgent", 1, priority=1, order=2)]
    assert where(planned(queue, [supply("a", 2, 4)])) == {"urgent": "a"}


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([], "No node has enrolled yet."),
        ([supply("a", 4, attached=False)], "No node is attached now (a enrolled)."),
        (
            [supply("a", 2), supply("b", 1)],
            (
                "Needs 4 GPUs on one node, and no node of the yard has that many: "
                "the largest, a, has 2 GPUs. It waits for a larger node to enroll."
            ),
        ),
        (
            [supply("a", 2), supply("b", 4, attached=False)],
            "Needs 4 GPUs on one node; no attached node has that many, and b is not attached now.",
        ),
        ([supply("a", 1, 4)], "Needs 4 GPUs on one node; the most free now is 1 of 4 on a."),
    ],
)
def test_a_waiting_run_knows_why(nodes: list[Supply], reason: str) -> None:
    assert planned([waits("run", 4)], nodes).waiting == {Requirement(4, docker=False): reason}


def test_what_no_node_can_ever_give_is_impossible() -> None:
    nodes = [supply("a", 0, 2), supply("b", 0, 8, attached=False)]
    check_possible(Requirement(8, docker=False), nodes)
    check_possible(Requirement(9, docker=False), [])
    with pytest.raises(Rejected, match="the largest, b, has 8 GPUs") as error:
        check_possible(Requirement(9, docker=False), nodes)
    assert error.value.code == "IMPOSSIBLE_RESOURCES"


runs = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 1), st.integers(0, 20)), max_size=12)
yards = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans()), max_size=4)


@for_all(runs, yards)
def test_a_plan_never_promises_a_gpu_or_slot_twice_and_explains_the_rest(
    asked: list[tuple[int, int, int]], sizes: list[tuple[int, int, bool]]
) -> None:
    queue = [
        waits(f"r{order}", gpus, priority=priority, order=order, since=timedelta(minutes=age))
        for order, (gpus, priority, age) in enumerate(asked)
    ]
    nodes = [
        supply(f"n{index}", free, slots=slots, attached=attached)
        for index, (free, slots, attached) in enumerate(sizes)
    ]
    made = planned(queue, nodes)
    by_name = {node.node_id: node for node in nodes}
    given_out = [uuid for placement in made.placements for uuid in placement.gpu_uuids]
    assert len(given_out) == len(set(given_out))
    for node in nodes:
        here = [placement for placement in made.placements if placement.node_id == node.node_id]
        assert len(here) <= (node.free_slot_count if node.attached else 0)
    placed = {placement.run_id for placement in made.placements}
    for run in queue:
        placement = next((one for one in made.placements if one.run_id == run.run_id), None)
        if placement is not None:
            assert len(placement.gpu_uuids) == run.requirement.gpu_count
            assert set(placement.gpu_uuids) <= set(by_name[placement.node_id].free_gpu_uuids)
        else:
            assert made.waiting[run.requirement]
    # Among runs that need the same, nobody overtakes.
    for first in queue:
        for second in queue:
            if first.requirement == second.requirement and first.rank < second.rank:
                assert first.run_id in placed or second.run_id not in placed


def test_a_gpu_that_others_use_is_waited_for_and_the_reason_says_so() -> None:
    node = replace(supply("a", 1, total=2), foreign_gpu_count=1)
    made = planned([waits("run", 2)], [node])
    assert made.placements == ()
    assert made.waiting[Requirement(2, docker=False)] == (
        "Needs 2 GPUs on one node; the most free now is 1 of 2 on a, "
        "where 1 GPU is used by processes that belong to no run."
    )
