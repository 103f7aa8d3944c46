"""Nodes as the index of a real database leads to them: what folding every event of the same log gives."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from runyard.node.v1 import events_pb2 as ev
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_core.clock import SystemClock
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_replay.reading import gpus
from runyard_replay.reading.gpus import gpus_as_of
from runyard_testkit import Database
from tests.contract.archive_yard import PARTITION, ArchiveYard, opened

pytestmark = pytest.mark.engines

NODES = ("n1", "n2", "n3", "quiet")


@pytest.fixture
async def yard(database: Database, tmp_path: Path) -> AsyncIterator[ArchiveYard]:
    async with opened(database, tmp_path) as made:
        yield made


async def fill(database: Database, count: int, draw: random.Random) -> None:
    """Let nodes enroll and lease their GPUs; the last one leases none but at first."""
    held: dict[str, list[str]] = {node_id: [] for node_id in NODES}
    versions = dict.fromkeys(NODES, 0)
    context = Context(parse_actor("service:scheduler"), correlation_id=uuid7(), source="/test")
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:
        for number in range(count):
            node_id = draw.choice(NODES[: 4 if number < count // 3 else 3])
            message: Message = ev.NodeEnrolled(node_id=node_id)
            if versions[node_id]:
                message = _moves(node_id, held[node_id], draw)
            stream = stream_name("node", node_id)
            event = wrap(message, stream, context, SystemClock().now())
            await log.append(
                AppendCommand(CommandId(uuid7()), [StreamAppend(stream, versions[node_id], [event])])
            )
            versions[node_id] += 1


def _moves(node_id: str, leases: list[str], draw: random.Random) -> Message:
    if draw.random() < 0.1:
        return ev.NodeAttached(node_id=node_id, boot_id=uuid7())
    if leases and draw.random() < 0.6:
        return ev.NodeGpusReleased(node_id=node_id, lease_id=leases.pop(draw.randrange(len(leases))))
    leases.append(uuid7())
    return ev.NodeGpusReserved(node_id=node_id, lease_id=leases[-1], run_id=uuid7(), attempt=1)


async def test_the_index_leads_to_the_leases_that_the_events_give(
    yard: ArchiveYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "WALK_EVENTS", 5)
    draw = random.Random(5)
    await fill(yard.database, 120, draw)
    log = yard.whole
    assert await log.stream_index() is not None
    head = (await log.head()).domain_position
    assert head > PARTITION
    for position in (1, 2, *draw.sample(range(3, head), 15), head):
        shown = await gpus_as_of(log, position)
        assert shown == await gpus_as_of(yard.hot, position)
    assert {node.node_id for node in shown.nodes} == set(NODES)
    assert any(node.reservations for node in shown.nodes)
    await yard.seal()
    await yard.detach()
    assert await log.stream_index() is None
    assert await gpus_as_of(log, head) == shown
