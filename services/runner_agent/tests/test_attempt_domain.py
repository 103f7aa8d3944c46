"""An attempt moves through its phases once, and nothing that is kept on disk is lost by keeping it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.run.v1.types_pb2 import Cause, CauseCode, Executor
from runyard_agent.domain.attempt import (
    AttemptState,
    Phase,
    Stop,
    begun,
    ended,
    from_json,
    is_lost_by_reboot,
    launched,
    reported,
    stop_ordered,
    to_json,
)
from runyard_agent.runtime import Exit, Handle

HANDLE = Handle("process", "42", 7)
STOP = Stop(CauseCode.CAUSE_CODE_STOPPED_BY_USER, "enough", 10)
CAUSE = Cause(code=CauseCode.CAUSE_CODE_USER_ERROR, exit_code=3, detail="status 3")
BOOTED_AT = datetime(2026, 1, 1, tzinfo=UTC)
EXIT = Exit(exit_code=0, signal=0, oom_killed=False, ended_at=BOOTED_AT + timedelta(hours=1))


def running() -> AttemptState:
    return launched(begun(AttemptState(), Executor.EXECUTOR_PROCESS, "boot-1"), HANDLE)


def test_attempt_goes_through_its_phases_in_order() -> None:
    state = running()
    assert (state.phase, state.handle, state.boot_id) == (Phase.RUNNING, HANDLE, "boot-1")
    state = ended(state, CAUSE)
    assert (state.phase, state.cause) == (Phase.COLLECTING, CAUSE)
    assert reported(state).phase is Phase.REPORTING


def test_attempt_that_never_ran_goes_straight_to_its_reports() -> None:
    assert reported(AttemptState()).phase is Phase.REPORTING


def test_no_phase_is_gone_through_twice() -> None:
    with pytest.raises(AssertionError):
        launched(running(), HANDLE)
    with pytest.raises(AssertionError):
        begun(running(), Executor.EXECUTOR_PROCESS, "boot-2")
    with pytest.raises(AssertionError):
        reported(running())


def test_first_stop_counts_and_none_after_the_end() -> None:
    stopped = stop_ordered(running(), STOP)
    assert stopped.stop == STOP
    assert stop_ordered(stopped, replace(STOP, reason="other")) is stopped
    over = ended(running(), CAUSE)
    assert stop_ordered(over, STOP) is over


def test_reboot_loses_only_what_nobody_saw_end_before_it() -> None:
    before = replace(EXIT, ended_at=BOOTED_AT - timedelta(seconds=1))
    unseen = replace(before, is_known=False)

    assert not is_lost_by_reboot(running(), unseen, "boot-1", BOOTED_AT)
    assert not is_lost_by_reboot(running(), before, "boot-2", BOOTED_AT)
    assert is_lost_by_reboot(running(), unseen, "boot-2", BOOTED_AT)
    assert is_lost_by_reboot(running(), EXIT, "boot-2", BOOTED_AT)


@given(
    st.builds(
        AttemptState,
        phase=st.sampled_from(Phase),
        executor=st.sampled_from(Executor.values()),
        boot_id=st.text(),
        handle=st.none() | st.builds(Handle, st.text(), st.text(), st.integers(0)),
        stop=st.none() | st.builds(Stop, st.sampled_from(CauseCode.values()), st.text(), st.integers(0)),
        cause=st.none()
        | st.builds(Cause, code=st.sampled_from(CauseCode.values()), exit_code=st.none() | st.just(0)),
    )
)
def test_state_comes_back_from_disk_as_it_was(state: AttemptState) -> None:
    assert from_json(to_json(state)) == state
