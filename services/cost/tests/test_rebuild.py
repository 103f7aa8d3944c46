from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard_contracts.ids import Position, stream_name
from runyard_cost.projections.leases import CostProjection
from runyard_cost.queries import SCHEMA
from runyard_eventlog.port import EventLog
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_testkit import Database

from .yard import append, queue, release, reserve

TABLES = ("price_v1", "lease_v1", "run_lease_v1", "run_v1", "project_run_v1")


async def test_leases_and_prices_are_rebuilt_from_the_log_row_for_row(database: Database) -> None:
    async with asyncpg.create_pool(database.url("cost"), min_size=1, max_size=4) as pool:
        log = PostgresEventLog(pool)
        async with await PostgresEventLog.connect(database.url("scheduler")) as scheduler_log:
            head = await fill(scheduler_log, log)
        async with projected(pool, log, batch_max=3, to=head):
            live = await all_rows(pool)
        assert [len(rows) for rows in live] == [3, 17, 9, 9, 8]
        async with pool.acquire() as connection:
            for table in TABLES:
                await connection.execute(f"drop table {SCHEMA}.{table} cascade")
            await connection.execute(f"truncate {SCHEMA}.projection_checkpoint, {SCHEMA}.projection_parked")
        async with projected(pool, log, batch_max=1_000, to=head):
            assert await all_rows(pool) == live
        await log.close()


async def fill(scheduler_log: EventLog, cost_log: EventLog) -> Position:
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
    return await reserve(scheduler_log, "r7", 60, attempt=2)


@asynccontextmanager
async def projected(
    pool: asyncpg.Pool, log: EventLog, *, batch_max: int, to: Position
) -> AsyncIterator[None]:
    projector = Projector(pool, log, CostProjection(), schema=SCHEMA, batch_max=batch_max)
    running = asyncio.create_task(projector.run())
    try:
        await projector.wait_for(to, timeout_seconds=10)
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def all_rows(pool: asyncpg.Pool) -> list[list[asyncpg.Record]]:
    async with pool.acquire() as connection:
        return [
            await connection.fetch(
                f"select t.*, t::text as text from {SCHEMA}.{table} t order by t.position, t::text"
            )
            for table in TABLES
        ]
