"""The queue as it was: who waited, in the order in which runs are placed, and how many were in each state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.history.v1.history_service_pb2 import QueuedRun, QueueState, StateCount
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.envelope import actor_name
from runyard_contracts.ids import stream_id
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.runs import state_after

EVENT_TYPES = tuple(
    f"runyard.run.{name}"
    for name in (
        *("queued", "lease_granted", "started", "stop_requested", "attempt_exited", "attempt_failed"),
        *("requeued", "finished"),
    )
)
"""Everything that changes the state of a run."""


@dataclass(slots=True)
class QueueFold:
    """Folds run events in the order of the log. Keeps what the waiting runs asked for, and a state a run."""

    project: str = ""
    """Only runs of this project; empty means all."""
    states: dict[str, RunState.ValueType] = field(default_factory=dict)
    _waiting: dict[str, QueuedRun] = field(default_factory=dict)
    _placed: dict[str, QueuedRun] = field(default_factory=dict)

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event."""
        message, run_id = event.message, stream_id(event.envelope.stream)
        if isinstance(message, ev.RunQueued):
            if self.project in ("", message.project):
                self.states[run_id] = RunState.RUN_STATE_QUEUED
                self._waiting[run_id] = _queued(message, event)
            return
        before = self.states.get(run_id)
        if before is None:
            return
        after = self.states[run_id] = state_after(before, message)
        match message:
            case ev.RunLeaseGranted() if run_id in self._waiting:
                placed = self._placed[run_id] = self._waiting.pop(run_id)
                placed.attempt_count = message.attempt
            case ev.RunRequeued() if run_id in self._placed:
                again = self._placed.pop(run_id)
                again.queued_at.CopyFrom(event.envelope.occurred_at)
                self._waiting[run_id] = again
            case _ if after == RunState.RUN_STATE_FINISHED:
                self._waiting.pop(run_id, None)
                self._placed.pop(run_id, None)
            case _:
                pass

    def shown(self, at: Timestamp) -> QueueState:
        """Give the queue; waits are counted up to a time."""
        waiting = sorted(self._still_queued(), key=lambda run: (-run.priority, run.queued_position))
        for run in waiting:
            run.waited_milliseconds = max(0, at.ToMilliseconds() - run.queued_at.ToMilliseconds())
        counts: Mapping[RunState.ValueType, int] = Counter(self.states.values())
        return QueueState(
            waiting=waiting,
            counts=[StateCount(state=state, run_count=counts[state]) for state in sorted(counts)],
        )

    def _still_queued(self) -> Iterator[QueuedRun]:
        for run_id, run in self._waiting.items():
            # A run that is asked to stop while it waits is not placed any more.
            if self.states[run_id] == RunState.RUN_STATE_QUEUED:
                yield run


def _queued(message: ev.RunQueued, event: RecordedEvent) -> QueuedRun:
    from_spec = message.spec
    run = QueuedRun(
        run_id=message.run_id,
        project=message.project,
        number=message.number,
        step=from_spec.step,
        priority=from_spec.priority,
        gpu_count=from_spec.resources.gpu_count,
        queued_position=event.position,
        submitted_by=actor_name(event.envelope.actor),
    )
    run.queued_at.CopyFrom(event.envelope.occurred_at)
    return run
