"""The queue as it was: who waited, in the order in which runs are placed, and how many were in each state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.history.v1.history_service_pb2 import QueuedRun, QueueState, StateCount
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.envelope import actor_name
from runyard_contracts.ids import stream_id
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.leases import milliseconds_of
from runyard_replay.folding.runs import state_after

EVENT_TYPES = tuple(
    f"runyard.run.{name}"
    for name in (
        *("queued", "lease_granted", "started", "stop_requested", "attempt_exited", "attempt_failed"),
        *("requeued", "finished"),
    )
)
"""Everything that changes the state of a run."""

# Looked up once: the class looks names up in its descriptor.
_QUEUED = RunState.RUN_STATE_QUEUED
_FINISHED = RunState.RUN_STATE_FINISHED


@dataclass(slots=True)
class QueueFold:
    """Folds run events in the order of the log. Keeps what unfinished runs asked for, counts the others."""

    _asked: dict[str, QueuedRun] = field(default_factory=dict)
    """By run id. A message is replaced, never changed, as copies of the fold share it.

    Until it is shown, its ``waited_milliseconds`` are counted up to 1970, below 0: cheap to go on from.
    """
    _states: dict[str, RunState.ValueType] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _finished: Counter[str] = field(default_factory=Counter)
    """By project."""

    def __len__(self) -> int:
        """Count the runs that are not finished."""
        return len(self._states)

    def copy(self) -> QueueFold:
        """Give one to go on with, while this one stays."""
        return QueueFold(
            self._asked.copy(), self._states.copy(), self._attempts.copy(), self._finished.copy()
        )

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event."""
        message, run_id = event.message, stream_id(event.envelope.stream)
        if isinstance(message, ev.RunQueued):
            self._states[run_id] = _QUEUED
            self._asked[run_id] = _queued(message, event)
            return
        before = self._states.get(run_id)
        if before is None:
            return
        after = self._states[run_id] = state_after(before, message)
        if after == _FINISHED:
            self._finish(run_id)
        elif isinstance(message, ev.RunLeaseGranted):
            self._attempts[run_id] = message.attempt
        elif isinstance(message, ev.RunRequeued):
            again = QueuedRun()
            again.CopyFrom(self._asked[run_id])
            again.attempt_count = self._attempts.get(run_id, 0)
            again.queued_at.CopyFrom(event.envelope.occurred_at)
            again.waited_milliseconds = -milliseconds_of(again.queued_at)
            self._asked[run_id] = again

    def shown(self, at: Timestamp, project: str = "") -> QueueState:
        """Give the queue of a project, or of all; waits are counted up to a time.

        A run that is asked to stop while it waits is not placed any more, and so does not wait.
        """
        waiting = [self._asked[run_id] for run_id, state in self._of(project) if state == _QUEUED]
        # First come within a priority: sorting keeps the order of what is equal.
        waiting.sort(key=attrgetter("queued_position"))
        waiting.sort(key=attrgetter("priority"), reverse=True)
        counts = Counter(self._states.values() if not project else (state for _, state in self._of(project)))
        if finished := self._finished[project] if project else self._finished.total():
            counts[_FINISHED] = finished
        queue = QueueState(
            waiting=waiting,
            counts=[StateCount(state=state, run_count=counts[state]) for state in sorted(counts)],
        )
        at_ms = milliseconds_of(at)
        for run in queue.waiting:
            run.waited_milliseconds = max(0, at_ms + run.waited_milliseconds)
        return queue

    def _finish(self, run_id: str) -> None:
        self._finished[self._asked.pop(run_id).project] += 1
        self._attempts.pop(run_id, None)
        del self._states[run_id]

    def _of(self, project: str) -> Iterable[tuple[str, RunState.ValueType]]:
        if not project:
            return self._states.items()
        return (one for one in self._states.items() if self._asked[one[0]].project == project)


def _queued(message: ev.RunQueued, event: RecordedEvent) -> QueuedRun:
    spec, envelope = message.spec, event.envelope
    return QueuedRun(
        run_id=message.run_id,
        project=message.project,
        number=message.number,
        step=spec.step,
        priority=spec.priority,
        gpu_count=spec.resources.gpu_count,
        queued_position=event.position,
        submitted_by=actor_name(envelope.actor),
        queued_at=envelope.occurred_at,
        waited_milliseconds=-milliseconds_of(envelope.occurred_at),
    )
