"""The scheduler's read model: runs, nodes and projects behind one checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from runyard_contracts.ids import stream_category, stream_id
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import BY_NAME
from runyard_core.projection import Put, RowKey, Rows, TableSpec
from runyard_scheduler.projections.nodes import NODES, node_row
from runyard_scheduler.projections.projects import PROJECTS, project_row
from runyard_scheduler.projections.run_parts import RUN_PARTS
from runyard_scheduler.projections.runs import RUNS, RunRow, run_rows

_TABLES = {"run": RUNS.name, "node": NODES.name, "project": PROJECTS.name}
_PREFIXES = ("runyard.run.", "runyard.node.", "runyard.project.", "runyard.environment.")


class SchedulerProjection:
    """Folds the streams of categories run, node and project into their tables."""

    name = "scheduler"
    version = 4
    # A tuple of tables with different rows: each Put names its own.
    tables = cast("tuple[TableSpec[object], ...]", (RUNS, RUN_PARTS, NODES, PROJECTS))
    event_types = frozenset(name for name in BY_NAME if name.startswith(_PREFIXES))

    def reads(self, event: RecordedEvent) -> Iterator[RowKey]:
        """Name the one row that an event changes."""
        stream = event.envelope.stream
        table = _TABLES.get(stream_category(stream))
        if table is not None:
            yield RowKey(table, (stream_id(stream),))

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[object]]:
        """Give the next row of the event's stream."""
        stream = event.envelope.stream
        key = stream_id(stream)
        match stream_category(stream):
            case "run":
                return _run_puts(rows.get(RUNS, key), event)
            case "node":
                return (cast("Put[object]", Put(NODES, node_row(rows.get(NODES, key), event))),)
            case "project":
                put = Put(PROJECTS, project_row(rows.get(PROJECTS, key), key, event))
                return (cast("Put[object]", put),)
            case _:
                return ()


def _run_puts(before: RunRow | None, event: RecordedEvent) -> Iterator[Put[object]]:
    made = run_rows(before, event)
    if made is None:
        return
    row, part = made
    yield cast("Put[object]", Put(RUNS, row))
    if part is not None:
        yield cast("Put[object]", Put(RUN_PARTS, part))
