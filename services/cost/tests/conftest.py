from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from runyard.cost.v1.cost_service_pb2_grpc import CostServiceStub
from runyard_cost.main import main
from runyard_cost.settings import CostSettings
from runyard_engines import choose_port
from runyard_eventlog.postgres import PostgresEventLog
from runyard_servicekit.channels import service_channel
from runyard_testkit import Database

from .yard import AGENT_TOKEN, TOKEN, Yard, sha256_of


@pytest.fixture
async def yard(database: Database, tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving_yard(database, tmp_path) as yard:
        yield yard


@pytest.fixture
async def own_yard(own_database: Database, tmp_path: Path) -> AsyncIterator[Yard]:
    """Give a yard whose database the test may kill."""
    async with serving_yard(own_database, tmp_path) as yard:
        yield yard


@asynccontextmanager
async def serving_yard(database: Database, tmp_path: Path) -> AsyncIterator[Yard]:
    tokens_file = tmp_path / "tokens.json"
    tokens = [
        {"sha256": sha256_of(TOKEN.encode()), "actor": "user:alice", "roles": ["client"]},
        {"sha256": sha256_of(AGENT_TOKEN.encode()), "actor": "agent:node-1", "roles": ["agent"]},
    ]
    tokens_file.write_text(json.dumps({"tokens": tokens}))
    settings = CostSettings(
        listen=f"127.0.0.1:{choose_port()}",
        tokens_file=tokens_file,
        database_url=SecretStr(database.url("cost")),
        stop_grace_seconds=0,
    )
    service = asyncio.create_task(main(settings))
    channel = service_channel(settings.listen, TOKEN)
    log = await PostgresEventLog.connect(database.url("scheduler"))
    try:
        async with asyncio.timeout(20):
            await channel.channel_ready()
        yield Yard(CostServiceStub(channel), database, log, settings.listen)
    finally:
        await channel.close()
        await log.close()
        service.cancel()
        with suppress(asyncio.CancelledError):
            await service
