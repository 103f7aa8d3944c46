"""What a node's report about an attempt makes of the run."""

from __future__ import annotations

from google.protobuf.message import Message

from runyard.agent.v1.agent_service_pb2 import AttemptReport
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Cause, CauseCode, RunState
from runyard_core.errors import Rejected
from runyard_scheduler.domain.causes import LOST_CAUSES, last_of, outcome_of
from runyard_scheduler.domain.reported_outputs import reported_outputs, said_with
from runyard_scheduler.domain.run_commands import Report
from runyard_scheduler.domain.run_state import Lease, Run

_CHANGES_NOTHING_WHEN_STALE = frozenset({"environment_captured", "status_detail", "input_fetched"})


def decide_report(run: Run, command: Report) -> list[Message]:
    """Give the events of a report; an empty list when the run knows it already.

    A report of an older epoch is recorded and changes nothing.

    Raises:
        Rejected: the report is not about an attempt that its node ever had (UNKNOWN_LEASE,
            NOT_YOUR_LEASE) or says nothing (EMPTY_REPORT).
    """
    report = command.report
    if report.WhichOneof("fact") is None:
        raise Rejected(f"report {report.report_id} says nothing", code="EMPTY_REPORT")
    if not 1 <= report.epoch <= run.epoch:
        raise Rejected(
            f"run {run.run_id} had no lease of epoch {report.epoch}: its latest is {run.epoch}",
            code="UNKNOWN_LEASE",
        )
    lease = run.lease
    if lease is None or report.epoch != lease.epoch:
        return _stale(run, command)
    if lease.node_id != command.node_id or lease.attempt != report.attempt:
        raise Rejected(
            f"epoch {report.epoch} of run {run.run_id} is attempt {lease.attempt} on node {lease.node_id}",
            code="NOT_YOUR_LEASE",
        )
    return [] if run.phase == RunState.RUN_STATE_FINISHED else _current(run, lease, report)


def _current(run: Run, lease: Lease, report: AttemptReport) -> list[Message]:
    match report.WhichOneof("fact"):
        case "environment_captured":
            return [
                ev.EnvironmentCaptured(
                    run_id=run.run_id,
                    attempt=lease.attempt,
                    epoch=lease.epoch,
                    environment=report.environment_captured,
                )
            ]
        case "started":
            return _started(run, lease, report)
        case "status_detail":
            return _status_detail(run, lease, report.status_detail)
        case "input_fetched":
            fetched = report.input_fetched
            return [
                ev.RunInputFetched(
                    run_id=run.run_id,
                    attempt=lease.attempt,
                    epoch=lease.epoch,
                    input=fetched.input,
                    file=fetched.file,
                )
            ]
        case "exited":
            return _exited(run, lease, report, report.exited.cause)
        case "finished":
            return _finished(run, lease, report)
        case "failed":
            return _failed(run, lease, report.failed)
        case _:
            return []


def _started(run: Run, lease: Lease, report: AttemptReport) -> list[Message]:
    if lease.started or lease.cause is not None:
        return []
    return [
        ev.RunStarted(
            run_id=run.run_id,
            attempt=lease.attempt,
            epoch=lease.epoch,
            hardware=report.started.hardware,
            inputs=report.started.inputs,
        )
    ]


def _status_detail(run: Run, lease: Lease, status_detail: str) -> list[Message]:
    if run.status_detail == status_detail:
        return []
    return [
        ev.RunStatusDetailSet(
            run_id=run.run_id, attempt=lease.attempt, epoch=lease.epoch, status_detail=status_detail
        )
    ]


def _exited(run: Run, lease: Lease, report: AttemptReport, cause: Cause) -> list[Message]:
    if not lease.holds_gpus:
        return []
    if _is_requeued(run, cause):
        return _lost(run, lease, cause)
    return [
        ev.RunAttemptExited(
            run_id=run.run_id,
            attempt=lease.attempt,
            epoch=lease.epoch,
            cause=_judged(run, cause),
            exited_at=report.occurred_at if report.HasField("occurred_at") else None,
        )
    ]


def _failed(run: Run, lease: Lease, cause: Cause) -> list[Message]:
    if not lease.holds_gpus:
        return []
    if _is_requeued(run, cause):
        return _lost(run, lease, cause)
    return [
        ev.RunAttemptFailed(
            run_id=run.run_id, attempt=lease.attempt, epoch=lease.epoch, cause=_judged(run, cause)
        )
    ]


def _finished(run: Run, lease: Lease, report: AttemptReport) -> list[Message]:
    finished = report.finished
    events = _exited(run, lease, report, finished.cause)
    if any(isinstance(event, ev.RunRequeued) for event in events):
        return events
    outputs = reported_outputs(finished)
    cause = said_with(_final_cause(run, lease, finished.cause), outputs.problem)
    events.append(
        ev.RunFinished(
            run_id=run.run_id,
            attempt=lease.attempt,
            epoch=lease.epoch,
            outcome=outcome_of(cause.code),
            cause=cause,
            outputs=outputs.named,
            output_list=outputs.file_list,
            telemetry=finished.telemetry if finished.HasField("telemetry") else None,
        )
    )
    return events


def _lost(run: Run, lease: Lease, cause: Cause) -> list[Message]:
    """The node itself says that the machine was lost under the attempt, so nothing runs any more."""
    lost = Cause()
    lost.CopyFrom(cause)
    lost.code = CauseCode.CAUSE_CODE_AGENT_LOST
    reason = cause.detail or "its machine was lost"
    return [
        ev.RunAttemptFailed(run_id=run.run_id, attempt=lease.attempt, epoch=lease.epoch, cause=lost),
        ev.RunRequeued(run_id=run.run_id, next_attempt=run.attempt + 1, reason=reason),
    ]


def _is_requeued(run: Run, cause: Cause) -> bool:
    return _would_be_requeued(run, cause) and run.has_attempts_left


def _would_be_requeued(run: Run, cause: Cause) -> bool:
    return cause.code in LOST_CAUSES and run.requeues_when_lost and run.stop is None


def _judged(run: Run, cause: Cause) -> Cause:
    """Once a stop was asked for it is the cause of the end, with the evidence of how the program ended."""
    if run.stop is None:
        return last_of(cause, run.attempts_max) if _would_be_requeued(run, cause) else cause
    stopped = Cause()
    stopped.CopyFrom(cause)
    stopped.code = run.stop.cause_code
    stopped.detail = run.stop.reason or cause.detail
    return stopped


def _final_cause(run: Run, lease: Lease, reported: Cause) -> Cause:
    if reported.code == CauseCode.CAUSE_CODE_OUTPUT_UNAVAILABLE:
        return reported
    if lease.cause is None:
        return _judged(run, reported)
    if lease.failed or run.stop is not None or reported.code == CauseCode.CAUSE_CODE_UNSPECIFIED:
        return lease.cause
    return _judged(run, reported)


def _stale(run: Run, command: Report) -> list[Message]:
    report = command.report
    fact = report.WhichOneof("fact") or ""
    if fact in _CHANGES_NOTHING_WHEN_STALE:
        return []
    causes = {"exited": report.exited.cause, "finished": report.finished.cause, "failed": report.failed}
    outputs = reported_outputs(report.finished)
    return [
        ev.RunStaleReportReceived(
            run_id=run.run_id,
            attempt=report.attempt,
            epoch=report.epoch,
            current_epoch=run.epoch,
            node_id=command.node_id,
            report=fact,
            cause=causes.get(fact),
            outputs=outputs.named,
            output_list=outputs.file_list,
        )
    ]
