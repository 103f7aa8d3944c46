from __future__ import annotations

import asyncpg
import pytest

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard_contracts.ids import stream_name
from runyard_cost.projections.leases import CostProjection
from runyard_cost.queries import SCHEMA
from runyard_eventlog.port import EventLog
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from runyard_testkit.read_model import ReadModel

from .yard import append, queue, release, reserve

pytestmark = pytest.mark.engines


async def test_leases_and_prices_are_rebuilt_from_the_log_row_for_row(database: Database) -> None:
    async with asyncpg.create_pool(database.url("cost"), min_size=1, max_size=4) as pool:
        log = PostgresEventLog(pool)
        async with await PostgresEventLog.connect(database.url("scheduler")) as scheduler_log:
            await fill(scheduler_log, log)
        model = ReadModel(pool, log, CostProjection(), SCHEMA)
        live = await model.projected(batch_max=3)
        assert {name: len(rows) for name, rows in live.items()} == {
            "price": 3,
            "lease": 17,
            "run_lease": 9,
            "run": 9,
            "project_run": 8,
        }
        await model.delete()
        assert await model.projected(batch_max=1_000) == live
        await log.close()


async def fill(scheduler_log: EventLog, cost_log: EventLog) -> None:
    """Eight runs, one of them in two attempts and one still running; one that only waits; three prices."""
    await queue(scheduler_log, "waiting")
    for number in range(8):
        run_id = f"r{number}"
        await reserve(scheduler_log, run_id, number, gpus=[("GPU-a", "H100"), ("GPU-b", "")][: number % 3])
        await release(scheduler_log, run_id, number + 20)
        if number % 3 == 0:
            price = Price(
                price_id=f"p{number}", unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=number
            )
            await append(cost_log, stream_name("price", price.price_id), PriceSet(price=price), number)
    await release(scheduler_log, "r7", 50)
    await reserve(scheduler_log, "r7", 60, attempt=2)
