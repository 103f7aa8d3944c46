"""Whether somebody may put hands on a running attempt, and what that makes of the run's record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import RunState
from runyard_core.errors import Rejected, ResourceExhausted
from runyard_scheduler.domain.run_commands import CloseHandsOn, OpenHandsOn
from runyard_scheduler.domain.run_state import Lease, Run

SESSIONS_MAX = 16
"""Most sessions of a run that are open at once."""

COMMAND_CHARACTERS_MAX = 4_000
"""Of a command; the record has no more of it."""

REDACTED = "***"


def attempt_at_hand(run: Run) -> Lease:
    """Give the lease of the attempt whose program runs.

    Raises:
        Rejected: nothing of the run runs (RUN_NOT_RUNNING), or nobody can reach it (NODE_UNREACHABLE).
        ResourceExhausted: enough sessions are open (TOO_MANY_SESSIONS).
    """
    lease = run.live_lease
    if lease is None or not lease.started or not lease.holds_gpus:
        state = RunState.Name(run.phase).removeprefix("RUN_STATE_").lower()
        raise Rejected(
            f"{run.project}#{run.number} is {state}: hands can be put on a running attempt only",
            code="RUN_NOT_RUNNING",
        )
    if not lease.reachable or lease.expired:
        raise Rejected(
            f"node {lease.node_id} of {run.project}#{run.number} is silent; try again when it is back",
            code="NODE_UNREACHABLE",
        )
    if len(run.open_session_ids) >= SESSIONS_MAX:
        raise ResourceExhausted(
            f"{run.project}#{run.number} has {SESSIONS_MAX} open sessions; close one",
            code="TOO_MANY_SESSIONS",
        )
    return lease


def decide_open(run: Run, command: OpenHandsOn) -> list[Message]:
    """Give the event of a session that opens.

    Raises:
        Rejected, ResourceExhausted: see ``attempt_at_hand``; or the attempt is another one by now
            (ATTEMPT_ENDED).
    """
    lease = attempt_at_hand(run)
    if lease.epoch != command.epoch:
        raise Rejected(f"the attempt of run {run.run_id} has ended meanwhile", code="ATTEMPT_ENDED")
    return [
        ev.RunHandsOnOpened(
            run_id=run.run_id,
            attempt=lease.attempt,
            epoch=lease.epoch,
            session_id=command.session_id,
            node_id=lease.node_id,
            command=command.command,
            terminal=command.terminal,
            port=command.port,
        )
    ]


def decide_close(run: Run, command: CloseHandsOn) -> list[Message]:
    """Give the event of a session that ended; none when that is known."""
    if command.session_id not in run.open_session_ids:
        return []
    closed = ev.RunHandsOnClosed(
        run_id=run.run_id,
        attempt=command.attempt,
        epoch=command.epoch,
        session_id=command.session_id,
        end_reason=command.end_reason,
        detail=command.detail,
        sent_bytes=command.sent_bytes,
        received_bytes=command.received_bytes,
        connection_count=command.connection_count,
    )
    if command.exit_status is not None:
        closed.exit_status.CopyFrom(command.exit_status)
    return [closed]


def recordable(command: Sequence[str], secret_values: Iterable[str]) -> tuple[str, ...]:
    """Give a command as the record may have it: without the values of secrets, and not too long."""
    longest_first = sorted(secret_values, key=len, reverse=True)
    shown: list[str] = []
    left = COMMAND_CHARACTERS_MAX
    for argument in command:
        text = argument
        for value in longest_first:
            text = text.replace(value, REDACTED)
        if len(text) > left:
            return (*shown, text[:left] + "\N{HORIZONTAL ELLIPSIS}")
        shown.append(text)
        left -= len(text)
    return tuple(shown)
