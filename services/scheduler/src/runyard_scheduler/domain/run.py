"""Stream ``run-<id>``: from commands to the events of one run."""

from __future__ import annotations

from typing import assert_never

from google.protobuf.message import Message

from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Cause, CauseCode, OnLost, RunState
from runyard_core.decider import Decider
from runyard_core.errors import Rejected
from runyard_scheduler.domain.causes import agent_lost, last_of, outcome_of
from runyard_scheduler.domain.hands_on import decide_close, decide_open
from runyard_scheduler.domain.run_commands import (
    CloseHandsOn,
    ExpireLease,
    GiveUp,
    Grant,
    MarkReachable,
    MarkUnreachable,
    OpenHandsOn,
    Queue,
    Report,
    RequestStop,
    RunCommand,
    Withhold,
)
from runyard_scheduler.domain.run_reports import decide_report
from runyard_scheduler.domain.run_state import Lease, Run, Stop, evolve


def decide(run: Run, command: RunCommand) -> list[Message]:
    """Give the events that a command makes; an empty list when it is already so.

    Raises:
        Rejected: the domain says no (RUN_EXISTS, RUN_NOT_FOUND, NOT_QUEUED, and those of reports and
            hands-on sessions).
    """
    if isinstance(command, Queue):
        return _queue(run, command)
    if run.phase == RunState.RUN_STATE_UNSPECIFIED:
        raise Rejected("there is no such run", code="RUN_NOT_FOUND")
    match command:
        case Grant():
            return _grant(run, command)
        case RequestStop():
            return _request_stop(run, command)
        case MarkUnreachable():
            return _mark_unreachable(run, command)
        case MarkReachable():
            return _mark_reachable(run, command)
        case ExpireLease():
            return _expire(run, command)
        case GiveUp():
            lease = _lease_of_epoch(run, command.epoch)
            return [] if lease is None else _give_up(run, lease, command.detail)
        case Withhold():
            return _withhold(run, command)
        case Report():
            return decide_report(run, command)
        case OpenHandsOn():
            return decide_open(run, command)
        case CloseHandsOn():
            return decide_close(run, command)
        case _:
            assert_never(command)


RUN: Decider[Run, RunCommand, Message] = Decider(initial=Run(), decide=decide, evolve=evolve)


def _queue(run: Run, command: Queue) -> list[Message]:
    if run.phase != RunState.RUN_STATE_UNSPECIFIED:
        raise Rejected(f"run {command.run_id} exists already", code="RUN_EXISTS")
    return [
        ev.RunQueued(
            run_id=command.run_id,
            project=command.project,
            number=command.number,
            spec=command.spec,
            title=command.title,
            tags=command.tags,
        )
    ]


def _grant(run: Run, command: Grant) -> list[Message]:
    if run.phase != RunState.RUN_STATE_QUEUED:
        raise Rejected(f"run {run.run_id} is not queued", code="NOT_QUEUED")
    return [
        ev.RunLeaseGranted(
            run_id=run.run_id,
            attempt=run.attempt + 1,
            lease_id=command.lease_id,
            epoch=run.epoch + 1,
            node_id=command.node_id,
            gpu_uuids=command.gpu_uuids,
            lease_milliseconds=command.lease_milliseconds,
        )
    ]


def _request_stop(run: Run, command: RequestStop) -> list[Message]:
    match run.phase:
        case RunState.RUN_STATE_QUEUED:
            return [_stopped(run, Stop(command.cause_code, command.reason))]
        case RunState.RUN_STATE_STARTING | RunState.RUN_STATE_RUNNING:
            requested = ev.RunStopRequested(
                run_id=run.run_id, cause_code=command.cause_code, reason=command.reason
            )
            stopping = evolve(run, requested)
            lease = stopping.lease
            if lease is None or not lease.expired:
                return [requested]
            # Nobody can stop an attempt on a machine that is gone, and nothing waits for it any longer.
            return [requested, *_give_up(stopping, lease, "stopped while its node was lost")]
        case _:
            return []


def _mark_unreachable(run: Run, command: MarkUnreachable) -> list[Message]:
    lease = _lease_of_epoch(run, command.epoch)
    if lease is None or not lease.reachable:
        return []
    return [_unreachable(run, lease, command.silent_milliseconds)]


def _mark_reachable(run: Run, command: MarkReachable) -> list[Message]:
    lease = _lease_of_epoch(run, command.epoch)
    if lease is None or lease.reachable or (lease.expired and run.requeues_when_lost):
        return []
    return [
        ev.RunReachableAgain(
            run_id=run.run_id, attempt=lease.attempt, epoch=lease.epoch, node_id=lease.node_id
        )
    ]


def _expire(run: Run, command: ExpireLease) -> list[Message]:
    lease = _lease_of_epoch(run, command.epoch)
    if lease is None or lease.expired:
        return []
    events: list[Message] = []
    if lease.reachable:
        events.append(_unreachable(run, lease, command.silent_milliseconds))
    events.append(
        ev.RunLeaseExpired(
            run_id=run.run_id,
            attempt=lease.attempt,
            epoch=lease.epoch,
            node_id=lease.node_id,
            on_lost=OnLost.ON_LOST_REQUEUE if run.requeues_when_lost else OnLost.ON_LOST_WAIT,
        )
    )
    if run.stop is not None:
        events += _give_up(run, lease, "its node was lost while it was being stopped")
    return events


def _give_up(run: Run, lease: Lease, detail: str) -> list[Message]:
    if lease.failed and lease.cause is not None:
        return [_finished(run, lease.cause)]
    cause = agent_lost(detail)
    failed = ev.RunAttemptFailed(run_id=run.run_id, attempt=lease.attempt, epoch=lease.epoch, cause=cause)
    if run.stop is not None:
        return [failed, _stopped(run, run.stop)]
    never_ran = not lease.started and lease.cause is None
    if not run.requeues_when_lost and not never_ran:
        return [failed, _finished(run, cause)]
    if not run.has_attempts_left:
        return [failed, _finished(run, last_of(cause, run.attempts_max))]
    return [failed, ev.RunRequeued(run_id=run.run_id, next_attempt=run.attempt + 1, reason=detail)]


def _withhold(run: Run, command: Withhold) -> list[Message]:
    lease = _lease_of_epoch(run, command.epoch)
    if lease is None or lease.started or lease.cause is not None:
        return []
    cause = Cause(code=CauseCode.CAUSE_CODE_ENVIRONMENT_UNAVAILABLE, detail=command.detail)
    failed = ev.RunAttemptFailed(run_id=run.run_id, attempt=lease.attempt, epoch=lease.epoch, cause=cause)
    return [failed, _finished(run, cause) if run.stop is None else _stopped(run, run.stop)]


def _lease_of_epoch(run: Run, epoch: int) -> Lease | None:
    lease = run.live_lease
    return lease if lease is not None and lease.epoch == epoch else None


def _unreachable(run: Run, lease: Lease, silent_milliseconds: int) -> ev.RunUnreachable:
    return ev.RunUnreachable(
        run_id=run.run_id,
        attempt=lease.attempt,
        epoch=lease.epoch,
        node_id=lease.node_id,
        silent_milliseconds=silent_milliseconds,
    )


def _stopped(run: Run, stop: Stop) -> ev.RunFinished:
    return _finished(run, Cause(code=stop.cause_code, detail=stop.reason))


def _finished(run: Run, cause: Cause) -> ev.RunFinished:
    return ev.RunFinished(
        run_id=run.run_id,
        attempt=run.attempt,
        epoch=run.epoch,
        outcome=outcome_of(cause.code),
        cause=cause,
    )
