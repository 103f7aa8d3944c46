"""Reads leases and prices as they were at a position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Row, Select, Subquery, Text, any_, cast, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from runyard_contracts.ids import Position
from runyard_core.projection import TableSpec
from runyard_cost.projections.leases import COST_VERSION
from runyard_cost.tables import LEASES, PRICES, PROJECT_RUNS, RUN_LEASES, RUNS
from runyard_eventlog import readmodel
from runyard_eventlog.querying import query_connection
from runyard_replay.pricing.leases import HeldGpu, Lease
from runyard_replay.pricing.price_book import PriceLine

SCHEMA = "cost"


@dataclass(frozen=True, slots=True)
class LeasedRun:
    """A run of a project that held something."""

    run_id: str
    first_leased_at_ms: int


@dataclass(frozen=True, slots=True)
class NotedPrice:
    """A line of the price book with its note."""

    line: PriceLine
    note: str


class CostQueries:
    """Queries on the tables of leases and prices. All raise Unavailable (READ_MODEL_UNREACHABLE)."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Read with this engine's connections."""
        self._engine = engine

    async def prices(
        self, at: Position, *, before: Position | None = None, limit: int | None = None
    ) -> Sequence[NotedPrice]:
        """Give the lines of the price book, the newest event first."""
        rows = _as_of(PRICES, at)
        wanted = select(rows).order_by(rows.c.position.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(rows.c.position < before)
        return [_price(row) for row in await self._read(wanted)]

    async def has_run(self, run_id: str, at: Position) -> bool:
        """Say whether there is such a run."""
        rows = _as_of(RUNS, at)
        return bool(await self._read(select(rows.c.run_id).where(rows.c.run_id == run_id)))

    async def leased_runs(
        self,
        project: str,
        at: Position,
        *,
        after: LeasedRun | None = None,
        limit: int | None = None,
    ) -> Sequence[LeasedRun]:
        """Give the runs of a project that held something, newest first, behind one of them."""
        rows = _as_of(PROJECT_RUNS, at)
        place = tuple_(rows.c.first_leased_at_ms, rows.c.run_id)
        wanted = select(rows.c.run_id, rows.c.first_leased_at_ms).where(rows.c.project == project)
        if after is not None:
            wanted = wanted.where(place < (after.first_leased_at_ms, after.run_id))
        wanted = wanted.order_by(rows.c.first_leased_at_ms.desc(), rows.c.run_id.desc()).limit(limit)
        return [LeasedRun(row.run_id, row.first_leased_at_ms) for row in await self._read(wanted)]

    async def leases_of_runs(self, run_ids: Iterable[str], at: Position) -> Sequence[Lease]:
        """Give all leases of these runs."""
        places = _as_of(RUN_LEASES, at)
        wanted = select(places.c.node_id, places.c.lease_id).where(_any_of(places.c.run_id, run_ids))
        by_node: dict[str, list[str]] = {}
        for row in await self._read(wanted):
            by_node.setdefault(row.node_id, []).append(row.lease_id)
        rows = _as_of(LEASES, at)
        leases: list[Lease] = []
        for node_id, lease_ids in by_node.items():
            here = select(rows).where(rows.c.node_id == node_id, _any_of(rows.c.lease_id, lease_ids))
            leases.extend(_lease(row) for row in await self._read(here))
        return leases

    async def leases_of_node(self, node_id: str, from_ms: int, to_ms: int, at: Position) -> Sequence[Lease]:
        """Give all leases of a node that overlap a time."""
        rows = _as_of(LEASES, at)
        wanted = select(rows).where(
            rows.c.node_id == node_id,
            rows.c.reserved_at_ms < to_ms,
            or_(rows.c.released_at_ms.is_(None), rows.c.released_at_ms > from_ms),
        )
        return [_lease(row) for row in await self._read(wanted)]

    async def _read(self, wanted: Select[Any]) -> Sequence[Row[Any]]:
        async with query_connection(self._engine) as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(wanted)).all()
            return rows


def _as_of(spec: TableSpec[Any], at: Position) -> Subquery:
    return readmodel.as_of(readmodel.table(spec, COST_VERSION, SCHEMA), at)


def _any_of(column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
    """Compare with one array: a project may have more runs than a statement has parameters."""
    return column == any_(cast(list(values), ARRAY(Text)))


def _price(row: Row[Any]) -> NotedPrice:
    line = PriceLine(
        price_id=row.price_id,
        node_id=row.node_id,
        gpu_model=row.gpu_model,
        unit=row.unit,
        micro_usd_per_hour=row.micro_usd_per_hour,
        effective_from_ms=row.effective_from_ms,
        position=row.position,
        event_id=row.event_id,
    )
    return NotedPrice(line, row.note)


def _lease(row: Row[Any]) -> Lease:
    gpus = zip(row.gpu_uuids, row.gpu_models, strict=True)
    events = (row.reserved_event_id, row.released_event_id)
    return Lease(
        lease_id=row.lease_id,
        run_id=row.run_id,
        attempt=row.attempt,
        node_id=row.node_id,
        gpus=tuple(HeldGpu(uuid, model) for uuid, model in gpus),
        reserved_at_ms=row.reserved_at_ms,
        released_at_ms=row.released_at_ms,
        event_ids=tuple(event_id for event_id in events if event_id),
    )
