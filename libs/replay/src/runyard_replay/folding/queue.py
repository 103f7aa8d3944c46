"""The queue as it was: who waited, in the order in which runs are placed, and how many were in each state."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.history.v1.history_service_pb2 import QueuedRun, QueueState, StateCount
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.envelope import actor_name
from runyard_contracts.ids import stream_id
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Rejected
from runyard_replay.folding.leases import milliseconds_of
from runyard_replay.folding.runs import state_after

NUMBERED_TYPE = "runyard.project.run_numbered"
"""On the project's stream, directly before ``QUEUED_TYPE`` of the run: one append writes both."""
QUEUED_TYPE = "runyard.run.queued"
FINISHED_TYPE = "runyard.run.finished"
PLACED_TYPES = ("runyard.run.lease_granted", "runyard.run.stop_requested")
"""What ends a wait, besides the end of the run: without one of these nothing else happens to a run."""
EVENT_TYPES = (
    *(QUEUED_TYPE, *PLACED_TYPES, FINISHED_TYPE),
    *(f"runyard.run.{name}" for name in ("started", "attempt_exited", "attempt_failed", "requeued")),
)
"""Everything that changes the state of a run."""

Place = tuple[int, int]
"""What the queue is ordered by, lowest first: the priority, negated, and the position of run.queued."""

# Looked up once: the class looks names up in its descriptor.
_QUEUED = RunState.RUN_STATE_QUEUED
_FINISHED = RunState.RUN_STATE_FINISHED


@dataclass(slots=True)
class QueueFold:
    """Folds run events in the order of the log. Keeps what unfinished runs asked for, counts the others."""

    _asked: dict[str, QueuedRun] = field(default_factory=dict)
    """By run id. A message is replaced, never changed, as copies of the fold share it."""
    _states: dict[str, RunState.ValueType] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _finished: Counter[str] = field(default_factory=Counter)
    """By project."""
    _unread: dict[str, RecordedEvent] = field(default_factory=dict)
    """By run id: what queued a run, where this version cannot read it; whether the run goes on or not."""

    def __len__(self) -> int:
        """Count the runs that are not finished."""
        return len(self._states)

    def copy(self) -> QueueFold:
        """Give one to go on with, while this one stays."""
        return QueueFold(
            self._asked.copy(),
            self._states.copy(),
            self._attempts.copy(),
            self._finished.copy(),
            self._unread.copy(),
        )

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event."""
        message, run_id = event.message, stream_id(event.envelope.stream)
        if isinstance(message, ev.RunQueued):
            self._states[run_id] = _QUEUED
            self._asked[run_id] = queued_run(message, event)
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
            self._asked[run_id] = again

    def pass_over(self, event: RecordedEvent) -> None:
        """Go on with the next event, which this version cannot read."""
        run_id = stream_id(event.envelope.stream)
        if event.type == QUEUED_TYPE:
            self._states[run_id] = _QUEUED
            self._asked[run_id] = QueuedRun(run_id=run_id, queued_position=event.position)
            self._unread[run_id] = event
        elif event.type == FINISHED_TYPE and run_id in self._states:
            self._finish(run_id)

    def asked(self) -> Iterable[QueuedRun]:
        """Give what unfinished runs asked for, whatever their state; not to be changed."""
        return self._asked.values()

    def waiting(self, project: str = "") -> dict[Place, QueuedRun]:
        """Give what runs wait for that do, of a project or of all, in no order; not to be changed.

        A run that is asked to stop while it waits is not placed any more, and so does not wait.

        Raises:
            Rejected: as ``counts``.
        """
        self._check(project)
        asked = self._asked
        return {
            place_of(asked[run_id]): asked[run_id] for run_id, state in self._of(project) if state == _QUEUED
        }

    def counts(self, project: str = "") -> Counter[RunState.ValueType]:
        """Count runs by state, of a project or of all.

        Raises:
            Rejected: this version cannot read what a run that goes on asked for, or whose a run was
                (EVENT_UNREADABLE).
        """
        self._check(project)
        counts = Counter(self._states.values() if not project else (state for _, state in self._of(project)))
        if finished := self._finished[project] if project else self._finished.total():
            counts[_FINISHED] = finished
        return counts

    def _finish(self, run_id: str) -> None:
        self._finished[self._asked.pop(run_id).project] += 1
        self._attempts.pop(run_id, None)
        del self._states[run_id]

    def _check(self, project: str) -> None:
        for run_id, event in self._unread.items():
            if project or run_id in self._states:
                raise unreadable(event)

    def _of(self, project: str) -> Iterable[tuple[str, RunState.ValueType]]:
        if not project:
            return self._states.items()
        return (one for one in self._states.items() if self._asked[one[0]].project == project)


def queue_state(
    waiting: Iterable[QueuedRun], counts: Mapping[RunState.ValueType, int], at: Timestamp
) -> QueueState:
    """Put an answer together; waits are counted up to a time."""
    queue = QueueState(
        waiting=waiting,
        counts=[StateCount(state=state, run_count=counts[state]) for state in sorted(counts)],
    )
    at_ms = milliseconds_of(at)
    for run in queue.waiting:
        run.waited_milliseconds = max(0, at_ms - milliseconds_of(run.queued_at))
    return queue


def front_of(places: Iterable[Place], skipped: int, limit: int | None) -> list[Place]:
    """Give a part of the queue in its order: so many after so many that are skipped; None for all others."""
    if limit is None:
        return sorted(places)[skipped:]
    return heapq.nsmallest(skipped + limit, places)[skipped:]


def place_of(run: QueuedRun) -> Place:
    """Give a run's place: first come within a priority."""
    return -run.priority, run.queued_position


def unreadable(event: RecordedEvent) -> Rejected:
    """Refuse a queue with a run that this version knows by its id alone: it may not be left out."""
    run_id, position = stream_id(event.envelope.stream), event.position
    return Rejected(
        f"run {run_id} was queued by an event (position {position}) that this version of Runyard cannot "
        "read; ask a newer one",
        code="EVENT_UNREADABLE",
        metadata={"position": str(position)},
    )


def queued_run(message: ev.RunQueued, event: RecordedEvent) -> QueuedRun:
    """Give what a run asked for, with no wait counted yet."""
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
    )
