"""How causes of an end are judged: which outcome they make, and after which a run is tried again."""

from __future__ import annotations

from runyard.run.v1.types_pb2 import Cause, CauseCode, Outcome

LOST_CAUSES = frozenset({CauseCode.CAUSE_CODE_AGENT_LOST, CauseCode.CAUSE_CODE_NODE_REBOOT})
"""The machine went away under the attempt: ``on_lost`` and ``attempts_max`` say what follows. After any other
cause the same would happen again, and nothing is tried again."""

_STOPPED_CAUSES = frozenset(
    {
        CauseCode.CAUSE_CODE_STOPPED_BY_USER,
        CauseCode.CAUSE_CODE_STOP_CONDITION,
        CauseCode.CAUSE_CODE_PREEMPTED,
        CauseCode.CAUSE_CODE_BUDGET_EXCEEDED,
        CauseCode.CAUSE_CODE_IDLE_GPU,
    }
)


def outcome_of(code: CauseCode.ValueType) -> Outcome.ValueType:
    """Give the outcome of a run that ended for this cause."""
    if code == CauseCode.CAUSE_CODE_SUCCEEDED:
        return Outcome.OUTCOME_SUCCEEDED
    if code in _STOPPED_CAUSES:
        return Outcome.OUTCOME_STOPPED
    return Outcome.OUTCOME_FAILED


def last_of(cause: Cause, attempts_max: int) -> Cause:
    """Give the cause of an end that would have been another attempt, had there not been enough of them."""
    last = Cause()
    last.CopyFrom(cause)
    last.detail = (
        f"{cause.detail or 'its machine was lost'}; this was attempt {attempts_max} of at most {attempts_max}"
    )
    return last


def agent_lost(detail: str) -> Cause:
    """Give the cause of an attempt that its node was lost with."""
    return Cause(code=CauseCode.CAUSE_CODE_AGENT_LOST, detail=detail)
