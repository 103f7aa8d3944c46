from __future__ import annotations

import pytest
from nats.js.api import StreamConfig

from runyard_testkit import Bucket, Bus, Database
from runyard_testkit.engines import STANDING

pytestmark = pytest.mark.engines

LOG_SCHEMAS = "select count(*) from information_schema.schemata where schema_name = 'log'"


async def test_an_empty_database_is_empty(empty_database: Database) -> None:
    async with empty_database.connected() as connection:
        assert await connection.fetchval(LOG_SCHEMAS) == 0


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_migrated_database_is_fresh_in_every_test(database: Database, turn: int) -> None:
    async with database.connected() as connection:
        await connection.execute("create table left_behind (turn int)")
        assert await connection.fetchval(LOG_SCHEMAS) == 1


@pytest.mark.parametrize("turn", [1, 2])
async def test_the_bus_has_no_streams_when_a_test_begins(bus: Bus, turn: int) -> None:
    async with await bus.connect("relay") as client:
        manager = client.jetstream()
        assert [stream.config.name for stream in await manager.streams_info()] == [STANDING]
        await manager.add_stream(StreamConfig(name="EVENTS_x", subjects=["runyard.event.>"]))


@pytest.mark.parametrize("turn", [1, 2])
def test_a_bucket_is_empty_when_a_test_begins(bucket: Bucket, turn: int) -> None:
    assert list(bucket.client.list_objects(bucket_name=bucket.name)) == []


def test_a_test_with_an_engine_is_marked(request: pytest.FixtureRequest, bus: Bus) -> None:
    assert request.node.get_closest_marker("engines") is not None
