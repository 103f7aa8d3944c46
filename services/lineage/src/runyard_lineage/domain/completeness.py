"""Whether a record is complete, and what it lacks, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runyard.metric.v1.metric_service_pb2 import GetRunSummaryResponse
from runyard.run.v1.types_pb2 import Attempt, Run, RunState, TelemetryMark


@dataclass(frozen=True, slots=True)
class Completeness:
    """The verdict on a record."""

    complete: bool
    missing: tuple[str, ...]


def completeness(run: Run, summary: GetRunSummaryResponse | None, committed: int | None) -> Completeness:
    """Compare what an agent counted with what the log has.

    Args:
        run: the run.
        summary: the metrics service's totals of the last attempt; None when it did not answer.
        committed: the last sequence that the log has of the attempt's spool; None when not known.
    """
    if run.state != RunState.RUN_STATE_FINISHED:
        return Completeness(False, ())
    attempt = last_attempt(run)
    if attempt is None:
        # It ended before it ever got a machine: there is nothing more to come.
        return Completeness(True, ())
    if not attempt.telemetry.spool_id:
        sentence = f"telemetry: the agent of attempt {attempt.number} never said how much there is"
        return Completeness(False, (sentence,))
    if summary is None or committed is None:
        # The box that did not answer is named by whoever asked for it.
        return Completeness(False, ())
    lacks = tuple(_lacks(attempt.telemetry, summary, committed))
    return Completeness(not lacks, lacks)


def last_attempt(run: Run) -> Attempt | None:
    """Give the attempt that the record is about."""
    return run.attempts[-1] if run.attempts else None


def _lacks(mark: TelemetryMark, summary: GetRunSummaryResponse, committed: int) -> Iterator[str]:
    if committed < mark.last_sequence:
        yield f"telemetry on its way: the log has batch {committed} of {mark.last_sequence}"
    counts = (
        ("log lines", summary.log_line_count, mark.log_line_count),
        ("metric points", summary.metric_point_count, mark.metric_point_count),
        ("samples", summary.sample_count, mark.sample_count),
    )
    for name, had, counted in counts:
        if had != counted:
            yield f"telemetry: the log has {had} {name}, the agent counted {counted}"
