"""How a start reads what is live out of the read model."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import asyncpg
import pytest

from runyard.run.v1.types_pb2 import Environment, Package, RunState
from runyard.run.v1.types_pb2 import Run as RunDocument
from runyard_core.projection import TableSpec
from runyard_eventlog import readmodel
from runyard_eventlog.querying import lent, open_pool
from runyard_scheduler import tables
from runyard_scheduler.projections.run_parts import RUN_PARTS, RunPartRow, take_part
from runyard_scheduler.projections.runs import RUNS
from runyard_testkit import Database

from .large_rows import a_row, forget_peak, held_mebibytes, peak_mebibytes

pytestmark = pytest.mark.engines

RUN_COUNT = 150

RowT = TypeVar("RowT")


async def write(pool: asyncpg.Pool, spec: TableSpec[RowT], rows: list[RowT]) -> None:
    async with lent(pool) as connection:
        await connection.copy_records_to_table(
            readmodel.table_name(spec, tables.VERSION),
            schema_name=tables.SCHEMA,
            columns=readmodel.column_names(spec),
            records=map(readmodel.values_of(spec), rows),
        )


async def test_large_runs_are_read_few_at_a_time(database: Database) -> None:
    packages = [Package(name="a-package-of-the-system", version="1.2.3")] * 40_000
    document = RunDocument(run_id="run", state=RunState.RUN_STATE_QUEUED)
    document.attempts.add(number=1, environment=Environment(packages=packages, image="a", image_id="b"))
    part = take_part(document).SerializeToString()
    run_ids = [f"run-{number}" for number in range(RUN_COUNT)]
    async with open_pool(database.url("scheduler"), 2) as pool:
        await tables.prepare(pool)
        await write(pool, RUNS, [replace(a_row(document), run_id=run_id) for run_id in run_ids])
        await write(pool, RUN_PARTS, [RunPartRow(run_id, 1, 1, part) for run_id in run_ids])
        forget_peak()
        before = held_mebibytes()
        world = await tables.read_world(pool)
        # Their parts take 190 together.
        assert peak_mebibytes() - before < 100
    assert [entry.run.image_pin for entry in world.runs()] == ["b"] * RUN_COUNT
