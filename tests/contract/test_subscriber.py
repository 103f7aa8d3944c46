"""Followers see everything once and in order, whatever the doorbell does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts import subjects
from runyard_contracts.ids import Position
from runyard_core.errors import Unavailable
from runyard_engines import NatsServer, start_ready
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import EventFilter, Page
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.subscriber import follow
from runyard_testkit import Bus, Database, seen_by_server
from tests.contract.events import DOMAIN, fill


async def take(pages: AsyncIterator[Page], until: int) -> list[int]:
    seen: list[int] = []
    async for page in pages:
        seen.extend(event.position for event in page.events)
        if page.scanned_to >= until:
            return seen
    raise AssertionError("a follower never ends")


@pytest.fixture
async def log(database: Database) -> AsyncIterator[PostgresEventLog]:
    async with await PostgresEventLog.connect(database.url("scheduler")) as opened:
        yield opened


async def test_history_comes_first_and_then_what_is_appended() -> None:
    bell = Doorbell()
    log = MemoryEventLog(doorbell=bell)
    await fill(log, 5)
    async with aclosing(follow(log, DOMAIN, doorbell=bell, page_size=2)) as pages:
        assert await take(pages, 5) == [1, 2, 3, 4, 5]
        async with asyncio.TaskGroup() as group:
            more = group.create_task(take(pages, 8))
            await fill(log, 3)
        assert more.result() == [6, 7, 8]


@pytest.mark.system
async def test_without_any_bell_the_head_is_looked_at_every_second() -> None:
    log = MemoryEventLog()
    async with asyncio.TaskGroup() as group, aclosing(follow(log, DOMAIN)) as pages:
        found = group.create_task(take(pages, 1))
        await asyncio.sleep(0)
        await fill(log, 1)
        async with asyncio.timeout(20):
            assert await found == [1]


async def test_a_ring_between_looking_and_waiting_is_not_lost() -> None:
    """The log grows right after it was read: the bell that rang then must end the wait that follows."""
    bell = Doorbell()
    heard = bell.rings
    bell.ring()
    async with asyncio.timeout(20):
        assert await bell.wait(heard, timeout_seconds=30)
    assert not await bell.wait(bell.rings, timeout_seconds=0.01)


async def test_pages_move_on_past_events_that_do_not_match() -> None:
    log = MemoryEventLog()
    await fill(log, 4)
    async with aclosing(follow(log, DOMAIN, filter=EventFilter(types=["runyard.run.queued"]))) as pages:
        page = await anext(pages)
    assert (page.events, page.scanned_to) == ([], 4)


async def test_an_idle_follower_gives_empty_pages_when_asked() -> None:
    log = MemoryEventLog()
    await fill(log, 1)
    bell = Doorbell()
    async with aclosing(follow(log, DOMAIN, doorbell=bell, idle_page_seconds=0.0)) as pages:
        await anext(pages)
        page = await anext(pages)
    assert (page.events, page.scanned_to) == ([], 1)


class FlakyLog(MemoryEventLog):
    """A real log in memory whose reads fail now and then, as when the database restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 3

    async def read(
        self,
        lane: Lane.ValueType,
        *,
        after_position: Position = Position(0),
        to_position: Position | None = None,
        filter: EventFilter = EventFilter(),  # noqa: A002
        limit: int = 1_000,
        descending: bool = False,
    ) -> Page:
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        return await super().read(
            lane, after_position=after_position, to_position=to_position, filter=filter, limit=limit
        )


@pytest.mark.system
async def test_a_log_that_is_away_is_waited_for() -> None:
    log = FlakyLog()
    await fill(log, 2)
    async with aclosing(follow(log, DOMAIN)) as pages:
        assert await take(pages, 2) == [1, 2]


@pytest.mark.parametrize(
    "bodies",
    [
        [b""],
        [b"not json"],
        [json.dumps({"log_id": "other", "position": 10**9}).encode()],
        [b"\xff" * 100] * 50,
    ],
)
async def test_nothing_said_on_the_bus_is_believed(
    log: PostgresEventLog, bus: Bus, bodies: Sequence[bytes]
) -> None:
    bell = Doorbell()
    async with await bus.connect("scheduler") as listener, await bus.connect("relay") as liar:
        await bell.listen(listener)
        await seen_by_server(listener)
        await fill(log, 2)
        for body in bodies:
            await liar.publish(subjects.HEAD, body)
        async with aclosing(follow(log, DOMAIN, doorbell=bell)) as pages:
            assert await take(pages, 2) == [1, 2]


async def test_the_doorbell_rings_again_after_the_bus_was_restarted(own_nats: NatsServer) -> None:
    bell = Doorbell()
    bus = Bus(own_nats)
    serving = asyncio.ensure_future(bell.serve(bus.url, "scheduler", bus.password("scheduler")))
    try:
        await _until_it_rings(bus, bell)
        assert own_nats.process is not None
        own_nats.process.kill()
        await own_nats.stop()
        await start_ready(own_nats)
        await _until_it_rings(bus, bell)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_the_doorbell_starts_before_the_bus_does(own_nats: NatsServer) -> None:
    await own_nats.stop()
    bell = Doorbell()
    bus = Bus(own_nats)
    serving = asyncio.ensure_future(bell.serve(bus.url, "scheduler", bus.password("scheduler")))
    try:
        assert not await bell.wait(bell.rings, timeout_seconds=0.2)
        await start_ready(own_nats)
        await _until_it_rings(bus, bell)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _until_it_rings(bus: Bus, bell: Doorbell) -> None:
    """Ring as the relay does until it is heard: connecting takes its time."""
    async with await bus.connect("relay") as relay:
        async with asyncio.timeout(20):
            heard = bell.rings
            while not await bell.wait(heard, timeout_seconds=0.1):
                await relay.publish(subjects.HEAD, b"{}")
                await relay.flush()


async def test_a_follower_survives_cut_connections(log: PostgresEventLog, database: Database) -> None:
    bell = Doorbell()
    async with (
        database.connected() as admin,
        await PostgresEventLog.connect(database.url("cost")) as reader,
        asyncio.TaskGroup() as group,
    ):
        found = group.create_task(take(follow(reader, DOMAIN, doorbell=bell, page_size=3), 60))
        for _ in range(20):
            await fill(log, 3)
            bell.ring()
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'runyard_cost'"
            )
    assert found.result() == list(range(1, 61))
