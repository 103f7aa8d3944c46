"""Costs as the index of a real database leads to their leases: what folding every event of the log gives."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_core.clock import SystemClock
from runyard_eventlog import postgres_stream_index
from runyard_eventlog.port import AppendCommand, EventLog, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_replay.reading import leases
from runyard_replay.reading.leases import lease_fold
from runyard_testkit import Database
from tests.contract.archive_yard import PARTITION, ArchiveYard, opened

pytestmark = pytest.mark.engines

NODE = "n1"
PROJECTS = ("digits", "faces")
CONTEXT = Context(parse_actor("service:scheduler"), correlation_id=uuid7(), source="/test")


@pytest.fixture
async def yard(database: Database, tmp_path: Path) -> AsyncIterator[ArchiveYard]:
    async with opened(database, tmp_path) as made:
        yield made


async def fill(database: Database, count: int, draw: random.Random) -> None:
    """Let runs of both projects lease GPUs of a node."""
    stream = stream_name("node", NODE)
    held: list[str] = []
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:
        for version in range(count):
            message: NodeGpusReserved | NodeGpusReleased
            if held and draw.random() < 0.5:
                message = NodeGpusReleased(node_id=NODE, lease_id=held.pop(draw.randrange(len(held))))
            else:
                held.append(uuid7())
                message = NodeGpusReserved(
                    node_id=NODE,
                    lease_id=held[-1],
                    run_id=uuid7(),
                    attempt=1,
                    gpu_uuids=[f"g{gpu}" for gpu in range(draw.randrange(3))],
                    project=draw.choice(PROJECTS),
                )
            event = wrap(message, stream, CONTEXT, SystemClock().now())
            await log.append(AppendCommand(CommandId(uuid7()), [StreamAppend(stream, version, [event])]))


async def set_price(database: Database, unit: PriceUnit.ValueType) -> None:
    price = Price(price_id=uuid7(), unit=unit, micro_usd_per_hour=7_000_000_000)
    price.effective_from.FromSeconds(1)
    stream = stream_name("price", price.price_id)
    async with await PostgresEventLog.connect(database.url("cost")) as log:
        event = wrap(PriceSet(price=price), stream, CONTEXT, SystemClock().now())
        await log.append(AppendCommand(CommandId(uuid7()), [StreamAppend(stream, 0, [event])]))


async def test_the_index_leads_to_the_costs_that_the_events_give(
    yard: ArchiveYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "PAYLOADS_EACH", 30)
    for module in (leases, postgres_stream_index):
        monkeypatch.setattr(module, "PAYLOADS_TOGETHER", 10)
    draw = random.Random(5)
    horizon_ms = int(SystemClock().now().timestamp() * 1000) + 3_600_000
    await set_price(yard.database, PriceUnit.PRICE_UNIT_GPU_HOUR)
    await fill(yard.database, 120, draw)
    await set_price(yard.database, PriceUnit.PRICE_UNIT_NODE_HOUR)
    log = yard.whole
    assert await log.stream_index() is not None
    head = (await log.head()).domain_position
    assert head > PARTITION

    async def cost(event_log: EventLog, project: str, position: int) -> bytes:
        fold = await lease_fold(event_log, position, project)
        return fold.project_cost(project, horizon_ms).SerializeToString(deterministic=True)

    for position in (1, 2, *draw.sample(range(3, head - 1), 6), head - 1, head):
        for project in PROJECTS:
            assert await cost(log, project, position) == await cost(yard.hot, project, position)
    shown = await cost(log, PROJECTS[0], head)
    assert shown != await cost(log, PROJECTS[0], head - 1)
    await yard.seal()
    await yard.detach()
    assert await log.stream_index() is None
    assert await cost(log, PROJECTS[0], head) == shown
