"""What a scheduler does that starts with a read model that is far behind, as after an upgrade."""

from __future__ import annotations

import asyncpg
import grpc
import pytest

from runyard.event.v1.read_pb2 import ReadOptions
from runyard_scheduler import main, queries
from runyard_testkit import Database

from .conftest import RunScheduler
from .service_client import Client, attach, reason
from .yard import held, started

pytestmark = pytest.mark.engines


async def test_agents_need_not_wait_for_the_read_model_and_who_asks_is_not_shown_the_past(
    run_scheduler: RunScheduler, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(database.url("scheduler"))
    async with run_scheduler() as address, Client(address) as client:
        agent = await attach(client)
        read = ReadOptions(min_position=(await client.submit()).position)
        grant = await agent.grant()
        await client.nodes(read=read)
        # Nobody moves the read model on from here.
        stuck = connection.transaction()
        await stuck.start()
        await connection.execute("select from scheduler.projection_checkpoint for update")
        assert (await agent.report(started(grant))).rejected_reason == ""
    monkeypatch.setattr(main, "CATCH_UP_SECONDS_MAX", 0.1)
    monkeypatch.setattr(queries, "WAIT_SECONDS_MAX", 0.1)
    async with run_scheduler() as address, Client(address) as client:
        agent = await attach(client)
        assert (await agent.renew(held(grant))).lease_ids == [grant.lease_id]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.runs()
        assert reason(error) == "READ_MODEL_BEHIND"
        await stuck.rollback()
        monkeypatch.undo()
        assert len((await client.runs()).runs) == 1
    await connection.close()
