"""Table ``run``: one row for each event of a run, with what lists filter by and a short document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Run
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import TableSpec
from runyard_replay.folding.runs import run_after
from runyard_scheduler.domain.causation import Mark, Trail
from runyard_scheduler.projections.run_parts import RunPartRow, take_part


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as of a position."""

    run_id: str
    position: int
    version: int
    """Version of the run's stream."""
    queued_position: int
    """Position of run.queued: the order of lists, newest first."""
    project: str
    number: int
    state: int
    step: str
    node_id: str
    """Node of the latest attempt; empty before the first."""
    submitted_by: str
    tags: tuple[str, ...]
    correlation_id: str
    traceparent: str
    trail_event_ids: tuple[str, ...]
    """The events that later ones may follow from, in the order of the fields of ``Trail``."""
    trail_positions: tuple[int, ...]
    lease_milliseconds: int
    """Length of the latest lease; 0 before the first."""
    lease_expired: bool
    """The latest lease ran out and its node has not come back since; the document keeps that it ever did."""
    stop_cause: int
    """Code that a requested stop gives; 0 when none was requested."""
    stop_reason: str
    document: bytes
    """Serialised ``runyard.run.v1.Run`` without what table ``run_part`` has."""


RUNS = TableSpec(name="run", row_class=RunRow, key=("run_id",))

_ADDING = (ev.RunQueued, ev.EnvironmentCaptured, ev.RunStarted, ev.RunInputFetched, ev.RunFinished)
"""Events that add to table ``run_part``. The others are far more: after them it is not looked for."""


def run_rows(before: RunRow | None, event: RecordedEvent) -> tuple[RunRow, RunPartRow | None] | None:
    """Give the row after an event of a run's stream, and its part; None when its beginning is not known."""
    message, envelope = event.message, event.envelope
    if before is None and not isinstance(message, ev.RunQueued):
        return None
    document = run_after(None if before is None else Run.FromString(before.document), event)
    adds = isinstance(message, _ADDING)
    part = take_part(document).SerializeToString(deterministic=True) if adds else b""
    stop = message if isinstance(message, ev.RunStopRequested) else None
    lease = message if isinstance(message, ev.RunLeaseGranted) else None
    trail = Trail() if before is None else trail_of(before.trail_event_ids, before.trail_positions)
    marks = trail.after(message, Mark(envelope.event_id, event.position)).marks
    row = RunRow(
        run_id=document.run_id,
        position=event.position,
        version=envelope.stream_version,
        queued_position=event.position if before is None else before.queued_position,
        project=document.project,
        number=document.number,
        state=document.state,
        step=document.spec.step,
        node_id=document.attempts[-1].node_id if document.attempts else "",
        submitted_by=document.submitted_by,
        tags=tuple(document.tags),
        correlation_id=envelope.correlation_id if before is None else before.correlation_id,
        traceparent=envelope.traceparent if before is None else before.traceparent,
        trail_event_ids=tuple(mark.event_id for mark in marks),
        trail_positions=tuple(mark.position for mark in marks),
        lease_milliseconds=(
            lease.lease_milliseconds if lease else 0 if before is None else before.lease_milliseconds
        ),
        lease_expired=_lease_expired(before, message),
        stop_cause=stop.cause_code if stop else 0 if before is None else before.stop_cause,
        stop_reason=stop.reason if stop else "" if before is None else before.stop_reason,
        document=document.SerializeToString(deterministic=True),
    )
    return row, RunPartRow(row.run_id, row.version, row.position, part) if part else None


def trail_of(event_ids: Sequence[str], positions: Sequence[int]) -> Trail:
    """Give the trail that a row holds."""
    return Trail(*(Mark(*mark) for mark in zip(event_ids, positions, strict=True)))


def _lease_expired(before: RunRow | None, message: Message) -> bool:
    match message:
        case ev.RunLeaseExpired():
            return True
        case ev.RunLeaseGranted() | ev.RunReachableAgain():
            return False
        case _:
            return before is not None and before.lease_expired
