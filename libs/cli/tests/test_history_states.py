"""States as of a moment, in words."""

from __future__ import annotations

import pytest

from runyard.history.v1.history_service_pb2 import (
    GetStateAsOfResponse,
    GpuState,
    QueuedRun,
    QueueState,
    StateCount,
)
from runyard.node.v1.types_pb2 import Node, NodeInventory
from runyard.run.v1.types_pb2 import RunState
from runyard_cli.history.states import say_state


def queue(waiting: int, *numbers: int) -> GetStateAsOfResponse:
    state = QueueState(counts=[StateCount(state=RunState.RUN_STATE_QUEUED, run_count=waiting)])
    state.waiting.extend(QueuedRun(project="digits", number=number) for number in numbers)
    return GetStateAsOfResponse(position=9, queue=state)


def test_a_part_of_a_queue_says_where_it_is_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    say_state(queue(5, 13, 14), skipped=2)
    said = capsys.readouterr().out
    assert "runs: 5 queued" in said
    assert [line.split()[:2] for line in said.splitlines() if "digits#" in line] == [
        ["3", "digits#13"],
        ["4", "digits#14"],
    ]
    assert "and 1 more: --skip 4 shows them" in said


@pytest.mark.parametrize(("waiting", "numbers"), [(2, (13, 14)), (0, ())])
def test_a_whole_queue_has_no_more(
    waiting: int, numbers: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    say_state(queue(waiting, *numbers))
    assert "more" not in capsys.readouterr().out


@pytest.mark.parametrize(("count", "words"), [(1, "1 slot"), (4, "4 slots")])
def test_node_without_gpus_shows_its_slots(
    count: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node(node_id="n1", inventory=NodeInventory(slot_count=count))
    say_state(GetStateAsOfResponse(position=9, gpus=GpuState(nodes=[node])))
    assert f" {words} " in capsys.readouterr().out


def test_nodes_that_are_left_out_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    gpus = GpuState(nodes=[Node(node_id="n1"), Node(node_id="n2")], more_node_count=3)
    say_state(GetStateAsOfResponse(position=9, gpus=gpus), skipped=4)
    assert "and 3 more nodes: --skip 6 shows them" in capsys.readouterr().out
    say_state(GetStateAsOfResponse(position=9, gpus=gpus, queue=QueueState()), skipped=4)
    assert "and 3 more nodes: as-of ... gpus --skip 2 shows them" in capsys.readouterr().out
