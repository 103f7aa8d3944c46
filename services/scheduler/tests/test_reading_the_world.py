"""How a start reads what is live out of the read model."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest

from runyard.run.v1.types_pb2 import Environment, Package, RunState
from runyard.run.v1.types_pb2 import Run as RunDocument
from runyard_eventlog import readmodel
from runyard_eventlog.querying import lent, open_pool
from runyard_scheduler import tables
from runyard_scheduler.projections.runs import RUNS, RunRow
from runyard_testkit import Database

from .large_rows import a_row, forget_peak, held_mebibytes, peak_mebibytes

pytestmark = pytest.mark.engines

RUN_COUNT = 150


async def write(pool: asyncpg.Pool, rows: list[RunRow]) -> None:
    async with lent(pool) as connection:
        await connection.copy_records_to_table(
            tables.RUN_TABLE.removeprefix(f"{tables.SCHEMA}."),
            schema_name=tables.SCHEMA,
            columns=readmodel.column_names(RUNS),
            records=map(readmodel.values_of(RUNS), rows),
        )


async def test_large_runs_are_read_few_at_a_time(database: Database) -> None:
    packages = [Package(name="a-package-of-the-system", version="1.2.3")] * 40_000
    document = RunDocument(run_id="run", state=RunState.RUN_STATE_QUEUED)
    document.attempts.add(number=1, environment=Environment(packages=packages))
    row = a_row(document)
    async with open_pool(database.url("scheduler"), 2) as pool:
        await tables.prepare(pool)
        await write(pool, [replace(row, run_id=f"run-{number}") for number in range(RUN_COUNT)])
        forget_peak()
        before = held_mebibytes()
        world = await tables.read_world(pool)
        # Their documents take 190 together.
        assert peak_mebibytes() - before < 100
    assert len(list(world.runs())) == RUN_COUNT
