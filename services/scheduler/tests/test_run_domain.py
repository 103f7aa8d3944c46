"""Given-when-then on stream run-<id>."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from runyard.agent.v1.agent_service_pb2 import AttemptReport, InputFetched
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import (
    Cause,
    CauseCode,
    Environment,
    FileList,
    Hardware,
    InputFile,
    OnLost,
    Outcome,
    OutputFile,
    RunState,
)
from runyard_contracts.ids import LeaseId, NodeId, RunId
from runyard_scheduler.domain.causes import agent_lost
from runyard_scheduler.domain.reported_outputs import OUTPUTS_BYTES_MAX
from runyard_scheduler.domain.run import RUN
from runyard_scheduler.domain.run_commands import (
    ExpireLease,
    GiveUp,
    Grant,
    MarkReachable,
    MarkUnreachable,
    Queue,
    Report,
    RequestStop,
)
from runyard_testkit import given

from .yard import a_spec

ID = RunId("run")
NODE = NodeId("node-1")
STOP = RequestStop(CauseCode.CAUSE_CODE_STOPPED_BY_USER, "enough")
SUCCEEDED = Cause(code=CauseCode.CAUSE_CODE_SUCCEEDED, exit_code=0)
LOST = agent_lost("gone")


def queued(on_lost: OnLost.ValueType = OnLost.ON_LOST_WAIT) -> ev.RunQueued:
    return ev.RunQueued(run_id=ID, project="digits", number=1, spec=a_spec(on_lost=on_lost), tags=["a"])


def granted(epoch: int = 1) -> ev.RunLeaseGranted:
    return ev.RunLeaseGranted(
        run_id=ID,
        attempt=epoch,
        lease_id=f"lease-{epoch}",
        epoch=epoch,
        node_id=NODE,
        gpu_uuids=["GPU-0"],
        lease_milliseconds=60_000,
    )


STARTED = ev.RunStarted(run_id=ID, attempt=1, epoch=1, hardware=Hardware(hostname="host"))
STOP_REQUESTED = ev.RunStopRequested(
    run_id=ID, cause_code=CauseCode.CAUSE_CODE_STOPPED_BY_USER, reason="enough"
)
UNREACHABLE = ev.RunUnreachable(run_id=ID, attempt=1, epoch=1, node_id=NODE, silent_milliseconds=10_000)
AGAIN = ev.RunReachableAgain(run_id=ID, attempt=1, epoch=1, node_id=NODE)
EXITED = ev.RunAttemptExited(run_id=ID, attempt=1, epoch=1, cause=SUCCEEDED)
FAILED_LOST = ev.RunAttemptFailed(run_id=ID, attempt=1, epoch=1, cause=LOST)
REQUEUED = ev.RunRequeued(run_id=ID, next_attempt=2, reason="gone")
RUNNING: tuple[Message, ...] = (queued(), granted(), STARTED)
RUNNING_REQUEUE: tuple[Message, ...] = (queued(OnLost.ON_LOST_REQUEUE), granted(), STARTED)


def expired(on_lost: OnLost.ValueType = OnLost.ON_LOST_WAIT) -> ev.RunLeaseExpired:
    return ev.RunLeaseExpired(run_id=ID, attempt=1, epoch=1, node_id=NODE, on_lost=on_lost)


def a_finish(outcome: Outcome.ValueType, cause: Cause, **fields: object) -> ev.RunFinished:
    event = ev.RunFinished(run_id=ID, attempt=1, epoch=1, outcome=outcome, cause=cause)
    for name, value in fields.items():
        getattr(event, name).extend(value)
    return event


STOPPED = a_finish(Outcome.OUTCOME_STOPPED, Cause(code=CauseCode.CAUSE_CODE_STOPPED_BY_USER, detail="enough"))


def report(epoch: int = 1, attempt: int | None = None) -> AttemptReport:
    return AttemptReport(run_id=ID, attempt=attempt or epoch, epoch=epoch)


def exit_report(cause: Cause = SUCCEEDED, epoch: int = 1) -> Report:
    made = report(epoch)
    made.exited.cause.CopyFrom(cause)
    return Report(NODE, made)


def finish_report(cause: Cause = SUCCEEDED, epoch: int = 1, outputs: int = 0) -> Report:
    made = report(epoch)
    made.finished.cause.CopyFrom(cause)
    made.finished.outputs.extend(OutputFile(path=f"{index}.pt", sha256="a" * 64) for index in range(outputs))
    return Report(NODE, made)


def fail_report(cause: Cause) -> Report:
    made = report()
    made.failed.CopyFrom(cause)
    return Report(NODE, made)


def test_a_new_run_is_queued_once() -> None:
    command = Queue(ID, "digits", 1, a_spec(on_lost=OnLost.ON_LOST_WAIT), "", ("a",))
    given(RUN).when(command).then(queued()).when(command).then_rejected("RUN_EXISTS")


def test_nothing_can_be_asked_of_a_run_that_does_not_exist() -> None:
    given(RUN).when(STOP).then_rejected("RUN_NOT_FOUND")


def test_only_a_queued_run_gets_a_lease_and_each_lease_a_higher_epoch() -> None:
    first = Grant(LeaseId("lease-1"), NODE, ("GPU-0",), 60_000)
    second = Grant(LeaseId("lease-2"), NODE, ("GPU-0",), 60_000)
    scenario = given(RUN, queued()).when(first).then(granted())
    scenario.when(second).then_rejected("NOT_QUEUED")
    given(RUN, queued(), granted(), FAILED_LOST, REQUEUED).when(second).then(granted(epoch=2))


def test_a_queued_run_stops_at_once() -> None:
    event = ev.RunFinished()
    event.CopyFrom(STOPPED)
    event.attempt, event.epoch = 0, 0
    given(RUN, queued()).when(STOP).then(event)


def test_a_leased_run_is_asked_to_stop_once_and_the_stop_becomes_its_cause() -> None:
    scenario = given(RUN, *RUNNING).when(STOP).then(STOP_REQUESTED)
    scenario.when(STOP).then_nothing()
    killed = Cause(code=CauseCode.CAUSE_CODE_USER_ERROR, signal=15)
    stopped = Cause(code=CauseCode.CAUSE_CODE_STOPPED_BY_USER, signal=15, detail="enough")
    ended = ev.RunAttemptExited(run_id=ID, attempt=1, epoch=1, cause=stopped)
    scenario = scenario.when(exit_report(killed)).then(ended)
    scenario.when(finish_report(killed)).then(a_finish(Outcome.OUTCOME_STOPPED, stopped))


def test_stopping_what_has_ended_changes_nothing() -> None:
    given(RUN, *RUNNING, EXITED).when(STOP).then_nothing()
    given(RUN, *RUNNING, EXITED, a_finish(Outcome.OUTCOME_SUCCEEDED, SUCCEEDED)).when(STOP).then_nothing()


def test_a_lost_run_that_is_stopped_ends_without_its_node() -> None:
    lost = ev.RunAttemptFailed(
        run_id=ID, attempt=1, epoch=1, cause=agent_lost("stopped while its node was lost")
    )
    given(RUN, *RUNNING, UNREACHABLE, expired()).when(STOP).then(STOP_REQUESTED, lost, STOPPED)


def test_silence_is_recorded_once_and_so_is_the_return() -> None:
    silent = MarkUnreachable(1, 10_000)
    scenario = given(RUN, *RUNNING).when(silent).then(UNREACHABLE)
    scenario.when(silent).then_nothing()
    scenario = scenario.when(MarkReachable(1)).then(AGAIN)
    scenario.when(MarkReachable(1)).then_nothing()
    scenario.when(silent).then(UNREACHABLE)


def test_silence_of_an_older_epoch_changes_nothing() -> None:
    scenario = given(RUN, *RUNNING_REQUEUE, FAILED_LOST, REQUEUED, granted(2))
    for command in (MarkUnreachable(1, 1), MarkReachable(1), ExpireLease(1, 1), GiveUp(1, "gone")):
        scenario.when(command).then_nothing()


def test_a_lease_of_a_lost_node_expires_and_the_attempt_keeps_its_gpus() -> None:
    scenario = given(RUN, *RUNNING, UNREACHABLE).when(ExpireLease(1, 60_000)).then(expired())
    assert scenario.state.live_lease is not None
    assert scenario.state.live_lease.holds_gpus
    scenario.when(ExpireLease(1, 60_000)).then_nothing()
    scenario.when(MarkReachable(1)).then(AGAIN)


def test_a_lease_that_expires_unnoticed_was_unreachable_first() -> None:
    given(RUN, *RUNNING).when(ExpireLease(1, 10_000)).then(UNREACHABLE, expired())


def test_an_expired_attempt_that_is_to_be_requeued_does_not_come_back() -> None:
    given(RUN, *RUNNING_REQUEUE, UNREACHABLE, expired(OnLost.ON_LOST_REQUEUE)).when(
        MarkReachable(1)
    ).then_nothing()


def test_a_lost_attempt_is_requeued_when_the_run_asked_for_it() -> None:
    given(RUN, *RUNNING_REQUEUE).when(GiveUp(1, "gone")).then(FAILED_LOST, REQUEUED)


def test_a_lost_attempt_ends_the_run_when_it_did_not_ask_for_requeue() -> None:
    given(RUN, *RUNNING).when(GiveUp(1, "gone")).then(FAILED_LOST, a_finish(Outcome.OUTCOME_FAILED, LOST))


def test_an_attempt_that_never_ran_is_requeued_in_any_case() -> None:
    given(RUN, queued(), granted()).when(GiveUp(1, "gone")).then(FAILED_LOST, REQUEUED)


def test_the_last_attempt_that_a_run_may_have_ends_it_when_it_is_lost() -> None:
    asked = queued(OnLost.ON_LOST_REQUEUE)
    asked.spec.attempts_max = 2
    second = (asked, granted(), STARTED, FAILED_LOST, REQUEUED, granted(2))
    started = ev.RunStarted(run_id=ID, attempt=2, epoch=2)
    failed = ev.RunAttemptFailed(run_id=ID, attempt=2, epoch=2, cause=LOST)
    last = agent_lost("gone; this was attempt 2 of at most 2")
    finish = ev.RunFinished(run_id=ID, attempt=2, epoch=2, outcome=Outcome.OUTCOME_FAILED, cause=last)
    given(RUN, *second, started).when(GiveUp(2, "gone")).then(failed, finish)
    # The same when it never ran: an agent that dies of the run itself must not take every machine along.
    given(RUN, *second).when(GiveUp(2, "gone")).then(failed, finish)


def test_a_node_that_reports_the_loss_of_the_last_attempt_ends_the_run() -> None:
    asked = queued(OnLost.ON_LOST_REQUEUE)
    asked.spec.attempts_max = 1
    reboot = Cause(code=CauseCode.CAUSE_CODE_NODE_REBOOT)
    last = Cause(code=reboot.code, detail="its machine was lost; this was attempt 1 of at most 1")
    exited = ev.RunAttemptExited(run_id=ID, attempt=1, epoch=1, cause=last)
    scenario = given(RUN, asked, granted(), STARTED).when(exit_report(reboot)).then(exited)
    scenario.when(finish_report(reboot)).then(a_finish(Outcome.OUTCOME_FAILED, last))


def test_a_run_recorded_without_a_bound_has_ten_attempts() -> None:
    assert [given(RUN, *RUNNING_REQUEUE, granted(epoch)).state.has_attempts_left for epoch in (9, 10)] == [
        True,
        False,
    ]


def test_a_stopped_attempt_that_is_lost_is_stopped_not_requeued() -> None:
    given(RUN, *RUNNING_REQUEUE, STOP_REQUESTED).when(GiveUp(1, "gone")).then(FAILED_LOST, STOPPED)


def test_reports_of_a_run_in_order_make_its_record() -> None:
    start = report()
    start.started.hardware.hostname = "host"
    scenario = given(RUN, queued(), granted()).when(Report(NODE, start)).then(STARTED)
    scenario.when(Report(NODE, start)).then_nothing()
    scenario = scenario.when(exit_report()).then(EXITED)
    scenario.when(exit_report()).then_nothing()
    done = a_finish(Outcome.OUTCOME_SUCCEEDED, SUCCEEDED, outputs=[OutputFile(path="0.pt", sha256="a" * 64)])
    scenario = scenario.when(finish_report(outputs=1)).then(done)
    scenario.when(finish_report(outputs=1)).then_nothing()
    assert scenario.state.phase == RunState.RUN_STATE_FINISHED


def test_a_status_line_is_recorded_when_it_changes() -> None:
    status = report()
    status.status_detail = "epoch 3"
    event = ev.RunStatusDetailSet(run_id=ID, attempt=1, epoch=1, status_detail="epoch 3")
    scenario = given(RUN, *RUNNING).when(Report(NODE, status)).then(event)
    scenario.when(Report(NODE, status)).then_nothing()


def test_what_the_program_got_on_demand_is_recorded() -> None:
    fetched = report()
    fetched.input_fetched.CopyFrom(
        InputFetched(input="late", file=InputFile(path="a", sha256="a" * 64, size_bytes=3))
    )
    file = fetched.input_fetched.file
    event = ev.RunInputFetched(run_id=ID, attempt=1, epoch=1, input="late", file=file)
    given(RUN, *RUNNING).when(Report(NODE, fetched)).then(event)


def test_every_attempt_gets_the_image_that_the_first_one_had() -> None:
    def captured(attempt: int, sha256: str) -> ev.EnvironmentCaptured:
        digest = f"localhost:5000/team/model@sha256:{sha256}"
        image = Environment(image="localhost:5000/team/model:1", image_id="b", image_repo_digests=[digest])
        return ev.EnvironmentCaptured(run_id=ID, attempt=attempt, epoch=attempt, environment=image)

    process = ev.EnvironmentCaptured(run_id=ID, attempt=1, epoch=1, environment=Environment(interpreter="x"))
    assert given(RUN, *RUNNING, process).state.image_pin == ""
    state = given(RUN, *RUNNING, captured(1, "1" * 64), captured(2, "2" * 64)).state
    assert state.image_pin == f"localhost:5000/team/model@sha256:{'1' * 64}"


def test_what_could_not_start_has_failed_and_waits_for_the_last_report() -> None:
    cause = Cause(code=CauseCode.CAUSE_CODE_IMAGE_UNAVAILABLE, detail="no such image")
    failed = ev.RunAttemptFailed(run_id=ID, attempt=1, epoch=1, cause=cause)
    scenario = given(RUN, queued(), granted()).when(fail_report(cause)).then(failed)
    scenario.when(fail_report(cause)).then_nothing()
    finish = a_finish(Outcome.OUTCOME_FAILED, cause)
    scenario.when(finish_report(cause)).then(finish)
    # And when the node has forgotten it, nothing more will come.
    scenario.when(GiveUp(1, "gone")).then(a_finish(Outcome.OUTCOME_FAILED, cause))


@pytest.mark.parametrize("code", [CauseCode.CAUSE_CODE_AGENT_LOST, CauseCode.CAUSE_CODE_NODE_REBOOT])
def test_a_node_that_reports_its_own_loss_requeues_the_run_that_asked_for_it(
    code: CauseCode.ValueType,
) -> None:
    given(RUN, *RUNNING_REQUEUE).when(exit_report(Cause(code=code, detail="gone"))).then(
        FAILED_LOST, REQUEUED
    )


def test_a_reboot_ends_the_run_that_did_not_ask_for_requeue() -> None:
    cause = Cause(code=CauseCode.CAUSE_CODE_NODE_REBOOT)
    event = ev.RunAttemptExited(run_id=ID, attempt=1, epoch=1, cause=cause)
    given(RUN, *RUNNING).when(exit_report(cause)).then(event)


def test_a_late_report_of_an_older_epoch_is_recorded_and_changes_nothing() -> None:
    scenario = given(RUN, *RUNNING_REQUEUE, FAILED_LOST, REQUEUED, granted(2))
    before = scenario.state
    stale = ev.RunStaleReportReceived(
        run_id=ID,
        attempt=1,
        epoch=1,
        current_epoch=2,
        node_id=NODE,
        report="finished",
        cause=SUCCEEDED,
        outputs=[OutputFile(path="0.pt", sha256="a" * 64)],
    )
    assert scenario.when(finish_report(outputs=1)).then(stale).state == before


def test_a_stale_status_line_is_not_worth_an_event() -> None:
    status = report()
    status.status_detail = "epoch 3"
    given(RUN, *RUNNING_REQUEUE, FAILED_LOST, REQUEUED).when(Report(NODE, status)).then_nothing()


def test_reports_about_attempts_that_never_were_are_refused() -> None:
    given(RUN, *RUNNING).when(exit_report(epoch=2)).then_rejected("UNKNOWN_LEASE")
    given(RUN, queued()).when(exit_report()).then_rejected("UNKNOWN_LEASE")
    other = Report(NodeId("node-2"), exit_report().report)
    given(RUN, *RUNNING).when(other).then_rejected("NOT_YOUR_LEASE")
    given(RUN, *RUNNING).when(Report(NODE, report())).then_rejected("EMPTY_REPORT")


def test_a_finish_without_an_exit_frees_the_gpus_first() -> None:
    finish = a_finish(Outcome.OUTCOME_SUCCEEDED, SUCCEEDED)
    given(RUN, *RUNNING).when(finish_report()).then(EXITED, finish)


def test_outputs_that_could_not_be_stored_fail_a_run_that_had_succeeded() -> None:
    cause = Cause(code=CauseCode.CAUSE_CODE_OUTPUT_UNAVAILABLE, detail="disk full")
    finish = a_finish(Outcome.OUTCOME_FAILED, cause)
    given(RUN, *RUNNING, EXITED).when(finish_report(cause)).then(finish)


def test_more_outputs_than_an_event_holds_fail_the_run_and_say_so() -> None:
    outcome = given(RUN, *RUNNING, EXITED).when(finish_report(outputs=20_000))
    (event,) = outcome.events
    assert isinstance(event, ev.RunFinished)
    assert event.cause.code == CauseCode.CAUSE_CODE_OUTPUT_UNAVAILABLE
    assert "all 20000 outputs are stored" in event.cause.detail
    assert f"the first {len(event.outputs)} of them" in event.cause.detail
    assert [file.path for file in event.outputs] == [f"{index}.pt" for index in range(len(event.outputs))]
    assert 890_000 < sum(file.ByteSize() + 4 for file in event.outputs) <= OUTPUTS_BYTES_MAX
    assert event.output_list == FileList(file_count=20_000)


def test_a_failed_program_with_more_outputs_than_an_event_holds_keeps_its_cause_and_says_so() -> None:
    failed = Cause(code=CauseCode.CAUSE_CODE_USER_ERROR, exit_code=3, detail="it exited with 3")
    (event,) = given(RUN, *RUNNING, EXITED).when(finish_report(failed, outputs=20_000)).events[-1:]
    assert isinstance(event, ev.RunFinished)
    assert (event.cause.code, event.cause.exit_code) == (failed.code, 3)
    assert event.cause.detail.startswith("it exited with 3; all 20000 outputs are stored")
    assert event.outputs


def test_the_stored_list_of_outputs_is_part_of_the_end_however_many_there_are() -> None:
    listed = FileList(sha256="b" * 64, file_count=20_000, size_bytes=7)
    for epoch, kind in ((1, ev.RunFinished), (2, ev.RunStaleReportReceived)):
        report = finish_report(outputs=3)
        report.report.finished.output_list.CopyFrom(listed)
        history = RUNNING if epoch == 1 else (*RUNNING_REQUEUE, FAILED_LOST, REQUEUED)
        event = given(RUN, *history).when(report).events[-1]
        assert isinstance(event, kind)
        assert (event.output_list, len(event.outputs)) == (listed, 3)
        assert event.cause == SUCCEEDED


def test_a_late_report_of_more_outputs_than_an_event_holds_can_be_recorded() -> None:
    late = given(RUN, *RUNNING_REQUEUE, FAILED_LOST, REQUEUED).when(finish_report(outputs=20_000)).events[-1]
    assert isinstance(late, ev.RunStaleReportReceived)
    assert late.outputs
    assert late.ByteSize() < OUTPUTS_BYTES_MAX + 10_000
    assert late.output_list.file_count == 20_000
