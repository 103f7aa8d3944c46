"""kill -9 of the bus, the database and the service itself, while an agent sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from runyard.event.v1.read_pb2 import ReadOptions
from runyard.metric.v1 import metric_service_pb2 as pb
from runyard_contracts.ids import uuid7
from runyard_engines import NatsServer, Postgres
from runyard_testkit import Bus, Database

from .yard import DEADLINE_SECONDS, AgentSpool, Service, log_chunk, scheduling, serving

pytestmark = pytest.mark.engines

RUN_ID = uuid7()
LINES_BEFORE = 200

Death = Callable[[Service, NatsServer, Postgres], Coroutine[None, None, None]]


async def _bus_dies(service: Service, nats: NatsServer, postgres: Postgres) -> None:
    assert nats.process is not None
    nats.process.kill()
    await nats.process.wait()
    await nats.start()
    await nats.ready()


async def _database_dies(service: Service, nats: NatsServer, postgres: Postgres) -> None:
    assert postgres.process is not None
    postgres.process.kill()
    await postgres.process.wait()
    await postgres.start()
    await postgres.ready()


async def _service_dies(service: Service, nats: NatsServer, postgres: Postgres) -> None:
    await service.kill()
    await service.start()


@pytest.mark.faults
@pytest.mark.parametrize("death", [_bus_dies, _database_dies, _service_dies])
async def test_a_death_loses_and_doubles_nothing(
    death: Death, own_database: Database, own_nats: NatsServer, own_postgres: Postgres, tmp_path: Path
) -> None:
    bus = Bus(own_nats)
    async with (
        scheduling(own_database, RUN_ID) as scheduler,
        serving(own_database, bus, tmp_path) as (service, metrics),
        AgentSpool(bus) as spool,
    ):
        await scheduler.started()
        spool.add(*(log_chunk(RUN_ID, line, 1) for line in range(1, LINES_BEFORE + 1)))
        await spool.send_all()
        dying = asyncio.create_task(death(service, own_nats, own_postgres))
        while not dying.done():
            spool.add(*(log_chunk(RUN_ID, len(spool.records) + 1 + i, 1) for i in range(5)))
            await spool.send_all()
        await dying
        spool.add(log_chunk(RUN_ID, len(spool.records) + 1, 1))
        await spool.send_all()
        line_count = len(spool.records)
        assert line_count > LINES_BEFORE + 5
        finished = await scheduler.finished(spool)
        read = ReadOptions(min_position=finished.position)
        request = pb.ListLogLinesRequest(run_id=RUN_ID, page_size=10_000, read=read)
        page = await metrics.ListLogLines(request, wait_for_ready=True, timeout=DEADLINE_SECONDS)
        assert [line.text for line in page.lines] == [f"line {n}" for n in range(1, line_count + 1)]
        watched = [item async for item in metrics.WatchRun(pb.WatchRunRequest(run_id=RUN_ID))]
        assert sum(item.HasField("line") for item in watched) == line_count
        assert watched[-1].complete
