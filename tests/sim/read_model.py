"""Read models in memory, filled by the real projections through the projector's own pure middle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.ids import Position, RunId
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import DeadlineExceeded, NotFound
from runyard_core.projection import KeyValue, Projection, RowKey
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.folding import BatchFold, Folded
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.projector import Projector
from runyard_eventlog.row_cache import RowCache
from runyard_eventlog.subscriber import follow
from runyard_scheduler.process.restoring import restore_world
from runyard_scheduler.process.world import World
from runyard_scheduler.projections.nodes import NODES
from runyard_scheduler.projections.projects import PROJECTS
from runyard_scheduler.projections.run_parts import RUN_PARTS
from runyard_scheduler.projections.runs import RUNS, RunRow
from runyard_scheduler.queries import Queries
from tests.sim.universe import Universe

AnyProjection = Projection[RecordedEvent]
Key = tuple[KeyValue, ...]


@dataclass(slots=True)
class Tables:
    """What a database keeps of one projection: it outlives every process."""

    projection: AnyProjection
    rows: dict[str, dict[Key, dict[int, object]]] = field(default_factory=dict)
    """Table -> key -> position -> row."""
    position: Position = Position(0)  # noqa: RUF009 - a NewType call is a value

    def newest(self, table: str, key: Key) -> object | None:
        found = self.rows.get(table, {}).get(key)
        return None if not found else found[max(found)]

    def current(self, table: str) -> list[Any]:
        return [rows[max(rows)] for rows in self.rows.get(table, {}).values()]

    def take(self, events: Iterable[RecordedEvent], position: Position) -> Folded:
        """Fold a batch and keep its rows and the checkpoint: one transaction."""
        fold = BatchFold(self.projection, list(events), frozenset(), RowCache(has_all_keys=False))
        while missing := fold.go_on():
            keys = [RowKey(table, key) for table, of_table in missing.items() for key in of_table]
            fetched = {key: row for key in keys if (row := self.newest(*key)) is not None}
            fold.supply(missing, fetched)
        folded = fold.folded
        for spec in self.projection.tables:
            for row in map(spec.row, folded.rows[spec.name]):
                by_position = self.rows.setdefault(spec.name, {}).setdefault(spec.key_of(row), {})
                by_position[row.position] = row
        self.position = position
        return folded

    def world(self) -> World:
        """Give the world that the scheduler's tables show."""
        runs = [row for row in self.current(RUNS.name) if row.state != RunState.RUN_STATE_FINISHED]
        parts, nodes, projects = map(self.current, (RUN_PARTS.name, NODES.name, PROJECTS.name))
        return restore_world(runs, parts, nodes, projects, self.position)


class MemoryProjector:
    """Keeps tables up to date from the log, as ``Projector`` does in Postgres."""

    def __init__(self, tables: Tables, log: EventLog, doorbell: Doorbell, universe: Universe) -> None:
        self._tables = tables
        self._log = log
        self._doorbell = doorbell
        self._universe = universe
        self._moved = asyncio.Event()

    @property
    def checkpoint(self) -> Position:
        return self._tables.position

    async def wait_for(self, position: int, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._tables.position < position:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"at {self._tables.position}, not yet at {position}") from None

    async def run(self) -> None:
        projection = self._tables.projection
        pages = follow(
            self._log,
            Lane.LANE_DOMAIN,
            after_position=self._tables.position,
            filter=EventFilter(types=sorted(projection.event_types)),
            doorbell=self._doorbell,
            page_size=self._universe.chance.choice((1, 7, 1_000)),
        )
        async for page in pages:
            # The transaction takes its time, and may die with its process.
            await asyncio.sleep(self._universe.between(0, 0.2))
            folded = self._tables.take(page.events, page.scanned_to)
            for parked in folded.parked:
                self._universe.never(f"{projection.name} parked {parked.event!r}: {parked.error}")
            self._moved.set()


class MemoryQueries(Queries):
    """The queries that the simulation's clients use, answered from memory."""

    def __init__(self, tables: Tables, projector: MemoryProjector, log: EventLog) -> None:
        super().__init__(cast("asyncpg.Pool", None), cast("Projector", projector), log)
        self._tables = tables

    async def run_id(self, name: str, position: Position) -> RunId:
        newest = cast("RunRow | None", self._tables.newest(RUNS.name, (name,)))
        if newest is None:
            raise NotFound(f"there is no run {name!r}", code="RUN_NOT_FOUND")
        return RunId(newest.run_id)
