"""States as of a moment, in words."""

from __future__ import annotations

import pytest

from runyard.history.v1.history_service_pb2 import (
    GetStateAsOfResponse,
    QueuedRun,
    QueueState,
    StateCount,
)
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
