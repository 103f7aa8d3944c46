"""How a program ended decides the typed cause of its attempt."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from runyard.run.v1.types_pb2 import Cause, CauseCode
from runyard_agent.domain.attempt import Stop
from runyard_agent.domain.exit_cause import cause_of
from runyard_agent.runtime import EndedBy, Exit

GOOD = Exit(exit_code=0, signal=0, oom_killed=False, ended_at=datetime(2026, 1, 1, tzinfo=UTC))
BAD = replace(GOOD, exit_code=3)
KILLED = replace(GOOD, exit_code=None, signal=int(signal.SIGKILL))
STOP = Stop(CauseCode.CAUSE_CODE_BUDGET_EXCEEDED, "too dear", 10)


def test_exit_status_zero_is_success() -> None:
    assert cause_of(GOOD, None) == Cause(code=CauseCode.CAUSE_CODE_SUCCEEDED, exit_code=0)


def test_success_keeps_what_the_program_was_denied() -> None:
    cause = cause_of(replace(GOOD, detail="could start no process, 3 times: limit 60"), None)

    assert cause.code == CauseCode.CAUSE_CODE_SUCCEEDED
    assert cause.detail == "the program exited with status 0; could start no process, 3 times: limit 60"


def test_other_status_is_a_user_error() -> None:
    assert cause_of(BAD, None) == Cause(
        code=CauseCode.CAUSE_CODE_USER_ERROR, exit_code=3, detail="the program exited with status 3"
    )


def test_stop_is_the_cause_whatever_the_status() -> None:
    for ended in (GOOD, BAD, KILLED):
        cause = cause_of(ended, STOP)
        assert (cause.code, cause.detail) == (CauseCode.CAUSE_CODE_BUDGET_EXCEEDED, "too dear")
        assert cause.signal == ended.signal


@pytest.mark.parametrize(
    ("ended_by", "code"),
    [
        (EndedBy.TIME_LIMIT, CauseCode.CAUSE_CODE_TIME_LIMIT),
        (EndedBy.NO_OUTPUT_TIMEOUT, CauseCode.CAUSE_CODE_NO_OUTPUT_TIMEOUT),
        (EndedBy.MEMORY_LIMIT, CauseCode.CAUSE_CODE_OOM_HOST),
        (EndedBy.LEASE_EXPIRY, CauseCode.CAUSE_CODE_AGENT_LOST),
    ],
)
def test_limit_that_ended_it_is_the_cause_also_with_a_stop(
    ended_by: EndedBy, code: CauseCode.ValueType
) -> None:
    ended = replace(KILLED, ended_by=ended_by, detail="evidence")

    for stop in (None, STOP):
        cause = cause_of(ended, stop)
        assert (cause.code, cause.detail, cause.signal) == (code, "evidence", signal.SIGKILL)


def test_killed_for_memory_is_not_the_users_error() -> None:
    ended = replace(KILLED, oom_killed=True)

    assert cause_of(ended, None).code == CauseCode.CAUSE_CODE_OOM_HOST


def test_unseen_end_is_never_called_success() -> None:
    ended = replace(KILLED, signal=0, is_known=False, detail="the shim was killed")

    cause = cause_of(ended, STOP)

    assert (cause.code, cause.HasField("exit_code")) == (CauseCode.CAUSE_CODE_AGENT_LOST, False)


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (replace(GOOD, exit_code=127), "status 127: command not found"),
        (replace(GOOD, exit_code=139), "status 139: a command of it was ended by SIGSEGV"),
        (replace(GOOD, exit_code=255), "status 255"),
        (replace(KILLED, signal=11), "ended by SIGSEGV"),
        (replace(KILLED, signal=40), "ended by signal 40"),
        (replace(BAD, detail="memory ran out nearby"), "status 3; memory ran out nearby"),
    ],
)
def test_detail_tells_people_what_happened(ended: Exit, words: str) -> None:
    assert cause_of(ended, None).detail.endswith(words)
