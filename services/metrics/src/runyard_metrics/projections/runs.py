"""The projection of the domain lane: which attempt a run is at, and with which telemetry it finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from runyard.run.v1.events_pb2 import RunFinished, RunLeaseGranted, RunQueued
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_core.projection import Put, RowKey, Rows, TableSpec
from runyard_metrics.tables import RUN_PROGRESS, RunProgressRow

_EVENTS = (RunQueued, RunLeaseGranted, RunFinished)


class RunsProjection:
    """Folds what a watcher needs to know of runs."""

    name = "runs"
    version = 1
    tables: tuple[TableSpec[Any], ...] = (RUN_PROGRESS,)
    event_types = frozenset(event_type_of(event).name for event in _EVENTS)

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        """Name the run."""
        match event.message:
            case RunQueued(run_id=run_id) | RunLeaseGranted(run_id=run_id) | RunFinished(run_id=run_id):
                return (RowKey(RUN_PROGRESS.name, (run_id,)),)
            case _:
                return ()

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterator[Put[Any]]:
        """Give the run's new row."""
        message = event.message
        match message:
            case RunQueued(run_id=run_id) | RunLeaseGranted(run_id=run_id) | RunFinished(run_id=run_id):
                before = rows.get(RUN_PROGRESS, run_id) or RunProgressRow(
                    run_id=run_id,
                    position=0,
                    attempt=0,
                    finished=False,
                    mark_node_id="",
                    mark_spool_id="",
                    mark_sequence=0,
                )
                yield Put(RUN_PROGRESS, replace(_advanced(before, message), position=event.position))
            case _:
                return


def _advanced(run: RunProgressRow, message: object) -> RunProgressRow:
    match message:
        case RunLeaseGranted(attempt=attempt):
            return replace(run, attempt=max(run.attempt, attempt))
        case RunFinished(telemetry=mark):
            return replace(
                run,
                finished=True,
                mark_node_id=mark.node_id,
                mark_spool_id=mark.spool_id,
                mark_sequence=mark.last_sequence,
            )
        case _:
            return run
