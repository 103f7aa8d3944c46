"""Spool to a real bus: everything arrives, in order, whatever happens to the bus and to the marks."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client

from runyard.metric.v1.batches_pb2 import LogChunkRecorded
from runyard_agent import publisher as publisher_module
from runyard_agent.publisher import BusAddress, Publisher
from runyard_agent.spool import Spool
from runyard_agent.spool_file import SpoolRecord
from runyard_agent.telemetry import Telemetry
from runyard_core.clock import SystemClock
from runyard_core.errors import Corrupt
from runyard_core.retry import Retries
from runyard_engines import NatsServer
from runyard_engines.nats import agent_user_name
from runyard_testkit import Bus, seen_by_server

from .scripted_ledger import Ledger, create_stream
from .scripted_yard import NODE_ID

pytestmark = pytest.mark.engines


def open_spool(directory: Path) -> tuple[Spool, Telemetry]:
    spool = Spool(directory, lambda *_: ("missing", b""), segment_bytes=20_000)
    return spool, Telemetry(spool, NODE_ID, SystemClock())


def write(telemetry: Telemetry, count: int) -> int:
    for _ in range(count):
        first = telemetry.spool.next_sequence
        last = telemetry.record([LogChunkRecorded(first_line_number=first, lines=[f"line {first}"])])
    return last


@asynccontextmanager
async def publishing(spool: Spool, bus: Bus) -> AsyncIterator[None]:
    user = agent_user_name(NODE_ID)
    publisher = Publisher(spool, NODE_ID, BusAddress(bus.url, user, bus.password(user)))
    tasks = [asyncio.ensure_future(spool.keep_synced()), asyncio.ensure_future(publisher.run())]
    try:
        yield
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def segments(directory: Path) -> list[Path]:
    return list(directory.glob("*.segment"))


async def until_held(client: Client, count: int) -> None:
    async with asyncio.timeout(40):
        while (await client.jetstream().stream_info("TELEMETRY")).state.messages < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_trimmed(spool: Spool, sequence: int) -> None:
    async with asyncio.timeout(30):
        while spool.committed_sequence < sequence:  # noqa: ASYNC110 - the other side brings it about
            await asyncio.sleep(0.01)


async def test_every_batch_arrives_and_the_spool_is_trimmed_to_the_mark(bus: Bus, tmp_path: Path) -> None:
    async with await bus.connect("test") as client:
        await create_stream(client)
        spool, telemetry = open_spool(tmp_path)
        ledger = Ledger()

        async with publishing(spool, bus), ledger.listening(client):
            last = write(telemetry, 1_000)
            await until_trimmed(spool, last)

        assert len(ledger.batches) == 1_000
        assert len(segments(tmp_path)) == 1


async def test_batches_wait_until_there_is_a_stream_and_somebody_who_commits(
    bus: Bus, tmp_path: Path
) -> None:
    async with await bus.connect("test") as client:
        spool, telemetry = open_spool(tmp_path)
        ledger = Ledger()

        async with publishing(spool, bus):
            last = write(telemetry, 20)
            await spool.wait_for_durable(last)
            await create_stream(client)
            async with ledger.listening(client):
                await until_trimmed(spool, last)

        assert len(ledger.batches) == 20


async def test_a_backlog_is_read_from_the_disk_once(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await bus.connect("test") as client:
        await create_stream(client)
        spool, telemetry = open_spool(tmp_path)
        last = write(telemetry, 2_000)
        await spool.sync()
        read, spool_read = list[int](), spool.read

        def counted(after_sequence: int) -> list[SpoolRecord]:
            records = spool_read(after_sequence)
            read.extend(record.sequence for record in records)
            return records

        monkeypatch.setattr(spool, "read", counted)
        async with publishing(spool, bus), Ledger().listening(client):
            await until_trimmed(spool, last)

        assert read == list(range(1, last + 1))


async def test_killed_bus_loses_and_changes_nothing(own_nats: NatsServer, tmp_path: Path) -> None:
    bus = Bus(own_nats)
    async with await bus.connect("test") as client:
        await create_stream(client)
    spool, telemetry = open_spool(tmp_path / "spool")
    ledger = Ledger()

    async with publishing(spool, bus):
        for _ in range(3):
            async with await bus.connect("test", allow_reconnect=False) as client:
                last = write(telemetry, 300)
                async with ledger.listening(client):
                    await ledger.wait_for(spool.spool_id, last - 150)
                assert own_nats.process is not None
                own_nats.process.kill()
                await own_nats.process.wait()
            last = write(telemetry, 50)
            await own_nats.start()
            await own_nats.ready()
        async with await bus.connect("test") as client, ledger.listening(client):
            await until_trimmed(spool, last)

    assert sorted(sequence for _, sequence in ledger.batches) == list(range(1, last + 1))


async def test_emptied_bus_is_filled_again_from_the_mark(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "_RESEND_SECONDS_MIN", 0.3)
    async with await bus.connect("test") as client:
        await create_stream(client)
        spool, telemetry = open_spool(tmp_path)
        ledger = Ledger()

        async with publishing(spool, bus):
            last = write(telemetry, 30)
            await until_held(client, 30)
            # What the bus has acknowledged is gone before anybody committed it.
            await client.jetstream().delete_stream("TELEMETRY")
            await create_stream(client)
            async with ledger.listening(client):
                await until_trimmed(spool, last)

        assert len(ledger.batches) == 30


async def test_marks_of_other_spools_and_nonsense_trim_nothing(bus: Bus, tmp_path: Path) -> None:
    async with await bus.connect("test") as client:
        await create_stream(client)
        spool, telemetry = open_spool(tmp_path)
        ledger = Ledger()

        async with publishing(spool, bus):
            last = write(telemetry, 5)
            await until_held(client, 5)
            for nonsense in (b"", b"5", b"{}", b'{"spool_id": "other", "sequence": 5}', b"\xff"):
                await client.publish(f"runyard.committed.{NODE_ID}", nonsense)
            await seen_by_server(client)
            async with ledger.listening(client):
                await ledger.wait_for(spool.spool_id, last)
                await until_trimmed(spool, last)


async def test_what_a_restored_log_lost_is_sent_again(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "_RESEND_SECONDS_MIN", 0.3)
    async with await bus.connect("test") as client:
        await create_stream(client)
        spool, telemetry = open_spool(tmp_path)
        ledger, restored = Ledger(), Ledger()

        async with publishing(spool, bus):
            async with ledger.listening(client):
                await until_trimmed(spool, write(telemetry, 30))
            restored.batches = {key: data for key, data in ledger.batches.items() if key[1] <= 12}
            restored.committed = {spool.spool_id: 12}
            # The bus forgets what it has seen, as after two minutes.
            await client.jetstream().delete_stream("TELEMETRY")
            await create_stream(client)
            async with restored.listening(client):
                last = write(telemetry, 1)
                await restored.wait_for(spool.spool_id, last)
                await until_trimmed(spool, last)

        assert {**restored.batches, **ledger.batches} == restored.batches


async def test_mark_beyond_the_spool_ends_the_publisher(bus: Bus, tmp_path: Path) -> None:
    async with await bus.connect("test") as client:
        await create_stream(client)
        spool, telemetry = open_spool(tmp_path)
        write(telemetry, 1)
        await spool.sync()
        user = agent_user_name(NODE_ID)
        publisher = Publisher(spool, NODE_ID, BusAddress(bus.url, user, bus.password(user)))
        running = asyncio.ensure_future(publisher.run())
        mark = json.dumps({"spool_id": spool.spool_id, "sequence": 7}).encode()

        # Once a batch has come, it listens to marks.
        await until_held(client, 1)
        await client.publish(f"runyard.committed.{NODE_ID}", mark)

        with pytest.raises(Corrupt, match="old copy"):
            await asyncio.wait_for(running, 20)


async def test_agent_may_publish_for_its_own_node_only(bus: Bus) -> None:
    refused: list[Exception] = []

    async def on_error(error: Exception) -> None:
        refused.append(error)

    async with await bus.connect(agent_user_name(NODE_ID), error_cb=on_error) as client:
        await client.publish("runyard.telemetry.node-2.log", b"")
        await client.flush()
        async with asyncio.timeout(20):
            while not refused:  # noqa: ASYNC110 - the server brings it about
                await asyncio.sleep(0.01)

        assert isinstance(refused[0], nats.errors.Error)


def sockets() -> int:
    """Count the open sockets of this process."""
    return sum(
        os.readlink(file).startswith("socket:")
        for file in Path("/proc/self/fd").iterdir()
        if file.is_symlink()
    )


async def test_a_refused_connection_is_given_back(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: asyncio.Queue[int] = asyncio.Queue()

    async def pause(_: Retries, error: Exception) -> None:
        refused.put_nowait(sockets())

    monkeypatch.setattr(Retries, "pause", pause)
    spool, _ = open_spool(tmp_path)
    publisher = Publisher(spool, NODE_ID, BusAddress(bus.url, agent_user_name(NODE_ID), "wrong"))
    before = sockets()
    running = asyncio.ensure_future(publisher.run())
    try:
        async with asyncio.timeout(40):
            assert [await refused.get() for _ in range(3)] == [before] * 3
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
