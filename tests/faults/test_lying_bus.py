"""The bus may lie: the mirror is filled again or the relay halts, and whoever reads sees the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from runyard_engines import NatsServer, start_ready
from runyard_eventlog.auditor import audit
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.mirror import Mirror, MirrorMessage, MirrorMismatch, configuration, read_messages
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_testkit import Bus, Database
from tests.contract.events import DOMAIN, fill
from tests.contract.mirrors import SECONDS_MAX, mirrored, relaying, standing_still
from tests.contract.stories import Stories, rows_of

pytestmark = [pytest.mark.engines, pytest.mark.faults]

CHECK_SECONDS = 0.1
"""How soon the relays of these tests look at the mirror again."""

Damage = Callable[[Client, Mirror, list[MirrorMessage]], Awaitable[None]]
"""Does something to the mirror, which held these messages."""

Check = Callable[[], Awaitable[None]]
"""Fails when what was projected is not what the log says."""


@dataclass(frozen=True, slots=True)
class World:
    """A log, its bus, and somebody who may do anything to both."""

    log: PostgresEventLog
    database: Database
    bus: Bus
    client: Client
    admin: asyncpg.Connection


@pytest.fixture
async def world(database: Database, bus: Bus) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(await PostgresEventLog.connect(database.url("scheduler")))
        admin = await asyncpg.connect(database.admin_url)
        stack.push_async_callback(admin.close)
        client = await bus.connect("test")
        stack.push_async_callback(client.close)
        yield World(log, database, bus, client, admin)


@asynccontextmanager
async def reading(world: World) -> AsyncIterator[Check]:
    """Project live behind the bus's doorbell; gives a check that the tables are those of the log."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            asyncpg.create_pool(world.database.url("cost"), min_size=1, max_size=6)
        )
        own_log = await stack.enter_async_context(PostgresEventLog(pool))
        bell = Doorbell()
        listener = await world.bus.connect("cost")
        stack.push_async_callback(listener.close)
        await bell.listen(listener)
        live = Projector(pool, own_log, Stories(1), schema="cost", doorbell=bell)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        task = group.create_task(live.run())
        stack.callback(task.cancel)

        async def check() -> None:
            head = (await world.log.head()).domain_position
            # A halted relay rings no more; without it the projector looks by itself, a second later.
            bell.ring()
            await live.wait_for(head, SECONDS_MAX)
            rebuilt = Projector(pool, own_log, Stories(2), schema="cost")
            rebuilding = group.create_task(rebuilt.run())
            await rebuilt.wait_for(head, SECONDS_MAX)
            rebuilding.cancel()
            rows = await rows_of(pool, "cost", 1)  # type: ignore[arg-type]
            assert len(rows) == 2 * head
            assert rows == await rows_of(pool, "cost", 2)  # type: ignore[arg-type]

        yield check


async def truncated(client: Client, mirror: Mirror, _: list[MirrorMessage]) -> None:
    """A stream update, which no deny flag stops."""
    await client.jetstream().update_stream(configuration(mirror.name, 1, 1).evolve(max_msgs=3))


async def deleted(client: Client, mirror: Mirror, _: list[MirrorMessage]) -> None:
    await client.jetstream().delete_stream(mirror.name)


async def emptied(client: Client, mirror: Mirror, messages: list[MirrorMessage]) -> None:
    """What a purge leaves: the place is right, everything before it is gone."""
    await recreated(client, configuration(mirror.name, messages[-1].position + 1, 1), [])


async def punched(client: Client, mirror: Mirror, messages: list[MirrorMessage]) -> None:
    config = configuration(mirror.name, 1, 1).evolve(deny_delete=False)
    await recreated(client, config, messages)
    await client.jetstream().delete_msg(mirror.name, 4)


async def begun_again(client: Client, mirror: Mirror, _: list[MirrorMessage]) -> None:
    await recreated(client, configuration(mirror.name, 1, 1), [])


async def kept_only_the_newest(client: Client, mirror: Mirror, messages: list[MirrorMessage]) -> None:
    config = configuration(mirror.name, 1, 1).evolve(max_msgs_per_subject=1)
    await recreated(client, config, messages)


async def strayed(client: Client, mirror: Mirror, _: list[MirrorMessage]) -> None:
    await client.jetstream().publish("runyard.event.run.forged", b"forged")


async def replaced_by_fewer(client: Client, mirror: Mirror, messages: list[MirrorMessage]) -> None:
    await recreated(client, configuration(mirror.name, 1, 1), [_forged(message) for message in messages[:4]])


async def replaced_by_as_many(client: Client, mirror: Mirror, messages: list[MirrorMessage]) -> None:
    await recreated(client, configuration(mirror.name, 1, 1), [_forged(message) for message in messages])


async def taken_over(client: Client, mirror: Mirror, messages: list[MirrorMessage]) -> None:
    """Another stream on the subjects of events, which would take what the relay publishes next."""
    await client.jetstream().delete_stream(mirror.name)
    config = configuration("OTHER", messages[-1].position + 1, 1)
    await client.jetstream().add_stream(config)


async def recreated(client: Client, config: StreamConfig, messages: list[MirrorMessage]) -> None:
    await client.jetstream().delete_stream(str(config.name))
    await client.jetstream().add_stream(config)
    for message in messages:
        await client.jetstream().publish(message.subject, message.body, headers=message.headers)


def _forged(message: MirrorMessage) -> MirrorMessage:
    return MirrorMessage(message.position, message.event_id, message.subject, message.headers, b"forged")


@pytest.mark.parametrize("damage", [truncated, deleted, emptied, punched, begun_again, kept_only_the_newest])
async def test_a_mirror_that_lost_something_is_filled_again_while_the_relay_runs(
    world: World, damage: Damage
) -> None:
    async with relaying(world.database, world.bus, check_seconds=CHECK_SECONDS), reading(world) as check:
        await fill(world.log, 9)
        mirror = await mirrored(world.client, world.log, 9)
        async with standing_still(world.admin):
            await damage(world.client, mirror, await read_messages(world.admin, 0, 10, mirror.log_id))
        # Some while it is broken, some as soon as it is whole again.
        await fill(world.log, 3)
        await _whole(mirror, 12)
        await fill(world.log, 3)
        await mirrored(world.client, world.log, 15)
        await check()
    verdict = await audit(world.admin, world.client)
    assert (verdict.verdict, verdict.first_position, verdict.mirror_count) == ("SAME", 1, 15)


async def _whole(mirror: Mirror, count: int) -> None:
    """Wait until the mirror holds so many messages."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            info = await mirror.info()
            if info is not None and info.state.messages == count:
                return
            # A relay that repairs says so only in its log.
            await asyncio.sleep(CHECK_SECONDS)


async def test_a_bit_that_rots_on_the_disk_of_the_bus_is_made_good(
    own_nats: NatsServer, database: Database
) -> None:
    """JetStream drops everything from there on, and says that the stream is well."""
    bus = Bus(own_nats)
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:
        await asyncio.gather(*(fill(log, 30) for _ in range(10)))
        async with await bus.connect("test") as client, relaying(database, bus):
            await mirrored(client, log, 300)
        assert own_nats.process is not None
        own_nats.process.kill()
        await own_nats.stop()
        await asyncio.to_thread(_flip_a_bit, own_nats.spec.data_dir)
        await start_ready(own_nats)
        async with await bus.connect("test") as client:
            mirror = Mirror(client, (await log.head()).log_id)
            info = await mirror.info()
            async with relaying(database, bus):
                await fill(log, 1)
                await mirrored(client, log, 301)
            async with database.connected() as admin:
                verdict = await audit(admin, client)
    assert info is not None
    assert 100 < info.state.messages < 200
    assert (verdict.verdict, verdict.mirror_count) == ("SAME", 301)


def _flip_a_bit(folder: Path) -> None:
    (block,) = folder.rglob("*.blk")
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 0x10
    block.write_bytes(content)
    # As when the server was killed before it had written its index.
    for index in folder.rglob("index.db"):
        index.unlink()


@pytest.mark.parametrize("damage", [strayed, replaced_by_fewer, replaced_by_as_many, taken_over])
async def test_a_mirror_with_foreign_messages_halts_the_relay_and_no_reader_is_misled(
    world: World, damage: Damage
) -> None:
    async with (
        relaying(world.database, world.bus, check_seconds=CHECK_SECONDS) as relay,
        reading(world) as check,
    ):
        await fill(world.log, 9)
        mirror = await mirrored(world.client, world.log, 9)
        async with standing_still(world.admin):
            await damage(world.client, mirror, await read_messages(world.admin, 0, 10, mirror.log_id))
        with pytest.raises(MirrorMismatch, match=r"position|sequence|mirror"):
            # Nothing is appended: the relay looks by itself.
            async with asyncio.timeout(SECONDS_MAX):
                await asyncio.shield(relay)
        verdict = await audit(world.admin, world.client)
        assert verdict.verdict == ("NO_MIRROR" if damage is taken_over else "DIFFERENT")
        await fill(world.log, 3)
        await check()
        assert (await world.log.read(DOMAIN)).scanned_to == 12


@pytest.mark.parametrize("damage", [truncated, emptied])
async def test_the_auditor_tells_a_truncated_mirror(world: World, damage: Damage) -> None:
    async with relaying(world.database, world.bus):
        await fill(world.log, 9)
        mirror = await mirrored(world.client, world.log, 9)
    await damage(world.client, mirror, await read_messages(world.admin, 0, 10, mirror.log_id))
    verdict = await audit(world.admin, world.client)
    assert (verdict.verdict, verdict.log_head) == ("TRUNCATED", 9)


async def test_the_auditor_tells_a_message_that_was_changed_between_the_ends(world: World) -> None:
    """The one lie that the relay does not look for: its ends and its count are right."""
    async with relaying(world.database, world.bus):
        await fill(world.log, 9)
        mirror = await mirrored(world.client, world.log, 9)
    messages = await read_messages(world.admin, 0, 10, mirror.log_id)
    messages[4] = _forged(messages[4])
    await recreated(world.client, configuration(mirror.name, 1, 1), messages)
    async with relaying(world.database, world.bus), reading(world) as check:
        await fill(world.log, 1)
        await mirrored(world.client, world.log, 10)
        await check()
    verdict = await audit(world.admin, world.client)
    assert (verdict.verdict, verdict.first_difference) == ("DIFFERENT", 5)
