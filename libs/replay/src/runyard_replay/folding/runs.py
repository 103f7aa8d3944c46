"""A run as people are shown it, folded from the events of its stream."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Attempt, Run, RunState
from runyard_contracts.envelope import actor_name
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.hands_on import apply_hands_on


def run_after(run: Run | None, event: RecordedEvent) -> Run:
    """Give the run after the next event of its stream; the one given is not changed."""
    after = Run()
    if run is not None:
        after.CopyFrom(run)
    apply_to_run(after, event)
    return after


def apply_to_run(run: Run, event: RecordedEvent) -> None:
    """Change a run by the next event of its stream; an empty one by the first."""
    message, envelope = event.message, event.envelope
    run.state = state_after(run.state, message)
    if not isinstance(message, ev.RunStaleReportReceived):
        run.position = event.position
    _apply_to_run(run, message, envelope)
    _apply_to_attempt(run, message, envelope)
    apply_hands_on(run, message, envelope)


def state_after(state: RunState.ValueType, message: Message) -> RunState.ValueType:
    """Give the state of a run after an event: the one rule, for what is decided and for what is shown."""
    if isinstance(message, ev.RunStarted):
        return _RUNNING if state == _STARTING else state
    return _STATES_AFTER.get(type(message), state)


_STARTING = RunState.RUN_STATE_STARTING
_RUNNING = RunState.RUN_STATE_RUNNING
_STATES_AFTER: Mapping[type[Message], RunState.ValueType] = {
    ev.RunQueued: RunState.RUN_STATE_QUEUED,
    ev.RunRequeued: RunState.RUN_STATE_QUEUED,
    ev.RunLeaseGranted: _STARTING,
    ev.RunStopRequested: RunState.RUN_STATE_STOPPING,
    ev.RunAttemptExited: RunState.RUN_STATE_FINISHING,
    ev.RunAttemptFailed: RunState.RUN_STATE_FINISHING,
    ev.RunFinished: RunState.RUN_STATE_FINISHED,
}


def _apply_to_run(run: Run, message: Message, envelope: Envelope) -> None:
    match message:
        case ev.RunQueued():
            run.run_id = message.run_id
            run.project = message.project
            run.number = message.number
            run.spec.CopyFrom(message.spec)
            run.title = message.title
            run.tags.extend(message.tags)
            run.submitted_by = actor_name(envelope.actor)
            run.queued_at.CopyFrom(envelope.occurred_at)
        case ev.RunLeaseGranted():
            attempt = run.attempts.add(
                number=message.attempt,
                node_id=message.node_id,
                lease_id=message.lease_id,
                epoch=message.epoch,
                gpu_uuids=message.gpu_uuids,
                reachable=True,
            )
            attempt.leased_at.CopyFrom(envelope.occurred_at)
        case ev.RunStarted():
            if not run.HasField("started_at"):
                run.started_at.CopyFrom(envelope.occurred_at)
        case ev.RunStatusDetailSet():
            run.status_detail = message.status_detail
        case ev.RunFinished():
            run.outcome = message.outcome
            run.cause.CopyFrom(message.cause)
            run.finished_at.CopyFrom(envelope.occurred_at)
        case _:
            pass


def _apply_to_attempt(run: Run, message: Message, envelope: Envelope) -> None:
    number = getattr(message, "attempt", 0)
    attempt = next((attempt for attempt in run.attempts if attempt.number == number), None)
    if attempt is None:
        return
    match message:
        case ev.RunStarted():
            attempt.started_at.CopyFrom(envelope.occurred_at)
            attempt.hardware.CopyFrom(message.hardware)
            attempt.inputs.extend(message.inputs)
        case ev.EnvironmentCaptured():
            attempt.environment.CopyFrom(message.environment)
        case ev.RunInputFetched():
            _add_fetched(attempt, message)
        case ev.RunUnreachable():
            attempt.reachable = False
        case ev.RunReachableAgain():
            attempt.reachable = True
        case ev.RunLeaseExpired():
            attempt.lease_expired = True
        case ev.RunAttemptExited():
            attempt.cause.CopyFrom(message.cause)
            attempt.exited_at.CopyFrom(
                message.exited_at if message.HasField("exited_at") else envelope.occurred_at
            )
        case ev.RunAttemptFailed():
            attempt.cause.CopyFrom(message.cause)
        case ev.RunFinished():
            _finish(attempt, message)
        case _:
            pass


def _add_fetched(attempt: Attempt, message: ev.RunInputFetched) -> None:
    """Put what the program got on demand in the place of what was only listed."""
    for one in attempt.inputs:
        if one.name == message.input:
            listed = next((file for file in one.files if file.path == message.file.path), None)
            (one.files.add() if listed is None else listed).CopyFrom(message.file)


def _finish(attempt: Attempt, message: ev.RunFinished) -> None:
    attempt.cause.CopyFrom(message.cause)
    attempt.outputs.extend(message.outputs)
    if message.HasField("output_list"):
        attempt.output_list.CopyFrom(message.output_list)
    if message.HasField("telemetry"):
        attempt.telemetry.CopyFrom(message.telemetry)
