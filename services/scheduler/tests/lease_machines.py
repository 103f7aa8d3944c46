"""Machines with attempts, and tables of read models, for the test of whatever may happen to leases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runyard.agent.v1.agent_service_pb2 import (
    AttemptReport,
    HeldAttempt,
    LeaseGrant,
)
from runyard.run.v1.types_pb2 import CauseCode, RunState
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import RowKey, TableSpec
from runyard_scheduler.conversation import Conversation
from runyard_scheduler.process.restoring import restore_world
from runyard_scheduler.process.world import World
from runyard_scheduler.projections.nodes import NodeRow
from runyard_scheduler.projections.projects import ProjectRow
from runyard_scheduler.projections.run_parts import RunPartRow
from runyard_scheduler.projections.runs import RunRow
from runyard_scheduler.projections.scheduler import SchedulerProjection
from runyard_scheduler.sessions import Session

from .yard import exited, finished, held


@dataclass
class Attempt:
    """An attempt on a machine, as its agent and its shim have it."""

    grant: LeaseGrant
    renewed_at_seconds: float
    reports: list[AttemptReport]
    """Not acknowledged yet, in order."""
    runs: bool = True

    def end(self, code: CauseCode.ValueType) -> None:
        if self.runs:
            self.runs = False
            report = exited(self.grant, exit_code=1)
            report.exited.cause.code = code
            last = finished(self.grant, exit_code=1)
            last.finished.cause.code = code
            self.reports += [report, last]


@dataclass
class Machine:
    """A machine: its attempts outlive every stream and every scheduler."""

    attempts: dict[str, Attempt]
    session: Session | None = None
    conversation: Conversation | None = None

    def held(self) -> list[HeldAttempt]:
        return [held(attempt.grant) for attempt in self.attempts.values()]


class Tables:
    """The read model in memory, filled by the projection itself."""

    def __init__(self) -> None:
        self.rows: dict[RowKey, object] = {}
        self.position = Position(0)

    def get(self, table: TableSpec[Any], *key: str | int) -> Any:
        return self.rows.get(RowKey(table.name, key))

    def lookup(self, table: TableSpec[Any]) -> Callable[[tuple[str | int, ...]], Any]:
        return lambda key: self.get(table, *key)

    def apply(self, events: list[RecordedEvent]) -> None:
        projection = SchedulerProjection()
        for event in events:
            for put in projection.apply(event, self):
                self.rows[RowKey(put.table.name, put.table.key_of(put.row))] = put.row
            self.position = event.position

    def world(self) -> World:
        rows = list(self.rows.values())
        return restore_world(
            [row for row in rows if isinstance(row, RunRow) and row.state != RunState.RUN_STATE_FINISHED],
            [row for row in rows if isinstance(row, RunPartRow)],
            [row for row in rows if isinstance(row, NodeRow)],
            [row for row in rows if isinstance(row, ProjectRow)],
            self.position,
        )
