"""The mirror is exact, or the relay says that it is not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping

import asyncpg
import pytest
from nats.aio.client import Client

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts import subjects
from runyard_contracts.ids import stream_name
from runyard_engines import NatsServer, start_ready
from runyard_eventlog.auditor import audit
from runyard_eventlog.mirror import Mirror, MirrorMismatch, read_messages
from runyard_eventlog.port import StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.relay import EXIT_MISMATCH, LEADER_LOCK
from runyard_testkit import Bus, Database, seen_by_server
from tests.contract.events import DOMAIN, chunk, command, detail, details, fill, run_stream
from tests.contract.mirrors import SECONDS_MAX, mirrored, relaying

pytestmark = pytest.mark.engines


@pytest.fixture
def log_database(database: Database) -> Database:
    """The log on Postgres alone."""
    return database


@pytest.fixture
async def client(bus: Bus) -> AsyncIterator[Client]:
    """A bus connection that may do anything."""
    async with await bus.connect("test") as opened:
        yield opened


@pytest.mark.parametrize("count", [1, 19, 20, 300])
async def test_sequence_is_position_and_the_auditor_agrees(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client, admin: asyncpg.Connection, count: int
) -> None:
    await asyncio.gather(*(log.append(details(run_stream(), 0, f"n{n}")) for n in range(count)))
    async with relaying(database, bus):
        await mirrored(client, log, count)
        await fill(log, 3)
        mirror = await mirrored(client, log, count + 3)
    events = (await log.read(DOMAIN, limit=10_000)).events
    for event in (events[0], events[-1]):
        message = await client.jetstream().get_msg(mirror.name, event.position)
        assert message.subject == subjects.event_subject(event.envelope.stream)
        assert Envelope.FromString(message.data or b"") == event.envelope
        assert (message.headers or {})["Nats-Msg-Id"] == event.envelope.event_id
        assert (message.headers or {})[subjects.HEADER_TYPE] == event.type
        assert (message.headers or {})[subjects.HEADER_POSITION] == str(event.position)
    verdict = await audit(admin, client)
    assert (verdict.verdict, verdict.log_count, verdict.mirror_count) == ("SAME", count + 3, count + 3)
    assert verdict.log_sha256 == verdict.mirror_sha256


async def test_telemetry_is_not_mirrored(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client
) -> None:
    stream = stream_name("telemetry", "node-1.spool")
    async with await PostgresEventLog.connect(database.url("metrics")) as metrics:
        await metrics.append(command(StreamAppend(stream, 0, [chunk(stream, "a")])))
    await fill(log, 2)
    async with relaying(database, bus):
        mirror = await mirrored(client, log, 2)
        info = await mirror.info()
    assert info is not None
    assert info.state.messages == 2


async def test_the_bell_rings_after_the_event_is_mirrored(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client
) -> None:
    bell = await client.subscribe(subjects.HEAD)
    await seen_by_server(client)
    head = await log.head()
    mirror = Mirror(client, head.log_id)
    async with relaying(database, bus), asyncio.timeout(SECONDS_MAX):
        await fill(log, 5)
        said = 0
        while said < 5:
            message = json.loads((await bell.next_msg(timeout=SECONDS_MAX)).data)
            assert message["log_id"] == head.log_id
            assert message["position"] > said
            said = message["position"]
            info = await mirror.info()
            assert info is not None
            assert info.state.last_seq >= said


async def test_a_killed_bus_is_filled_again_without_gap_or_double(
    own_nats: NatsServer, log: PostgresEventLog, database: Database, admin: asyncpg.Connection
) -> None:
    bus = Bus(own_nats)
    async with relaying(database, bus):
        for _ in range(2):
            await _append_while_the_bus_dies(own_nats, log)
        async with await bus.connect("test") as client:
            await mirrored(client, log, (await log.head()).domain_position)
            verdict = await audit(admin, client)
    assert (verdict.verdict, verdict.mirror_count) == ("SAME", 240)


async def _append_while_the_bus_dies(server: NatsServer, log: PostgresEventLog) -> None:
    writers = [asyncio.ensure_future(fill(log, 20)) for _ in range(6)]
    await writers[0]
    assert server.process is not None
    server.process.kill()
    await server.stop()
    await asyncio.gather(*writers)
    await start_ready(server)


async def test_a_mirror_that_was_lost_is_made_again(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client, admin: asyncpg.Connection
) -> None:
    async with relaying(database, bus):
        await fill(log, 30)
        mirror = await mirrored(client, log, 30)
    await client.jetstream().delete_stream(mirror.name)
    assert (await audit(admin, client)).verdict == "NO_MIRROR"
    async with relaying(database, bus):
        await fill(log, 1)
        await mirrored(client, log, 31)
    assert (await audit(admin, client)).verdict == "SAME"


async def test_only_one_relay_is_active_and_another_takes_over(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client, admin: asyncpg.Connection
) -> None:
    async with relaying(database, bus), relaying(database, bus):
        await fill(log, 5)
        await mirrored(client, log, 5)
        for _ in range(3):
            await admin.execute(
                "select pg_terminate_backend(l.pid) from pg_locks l join pg_database d on d.oid = l.database "
                "where l.locktype = 'advisory' and l.granted and d.datname = current_database() "
                "and l.objid = $1",
                LEADER_LOCK,
            )
            await fill(log, 5)
            await mirrored(client, log, (await log.head()).domain_position)
    assert (await audit(admin, client)).verdict == "SAME"


async def test_a_stray_message_in_the_mirror_halts_the_relay(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client, admin: asyncpg.Connection
) -> None:
    async with relaying(database, bus) as task:
        await fill(log, 3)
        await mirrored(client, log, 3)
        await client.jetstream().publish("runyard.event.run.forged", b"forged")
        await fill(log, 1)
        with pytest.raises(MirrorMismatch, match="sequence 4"):
            await asyncio.wait_for(asyncio.shield(task), SECONDS_MAX)
    verdict = await audit(admin, client)
    assert (verdict.verdict, verdict.first_difference) == ("DIFFERENT", 4)


async def test_a_mirror_ahead_of_the_log_halts_the_relay_with_its_exit_code(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client
) -> None:
    """As when the log was restored from a backup and kept its identity."""
    async with relaying(database, bus):
        await fill(log, 1)
        await mirrored(client, log, 1)
    await client.jetstream().publish("runyard.event.run.later", b"lost by the restore")
    process = await _relay_process(database, bus)
    errors = await asyncio.wait_for(_stderr(process), SECONDS_MAX)
    assert await process.wait() == EXIT_MISMATCH
    assert "relay halted" in errors
    assert "change_identity" in errors


async def test_a_restored_log_gets_a_new_mirror(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client, admin: asyncpg.Connection
) -> None:
    async with relaying(database, bus):
        await fill(log, 3)
        before = await mirrored(client, log, 3)
    await admin.execute("select log.change_identity()")
    async with relaying(database, bus):
        after = await mirrored(client, log, 3)
    assert after.name != before.name
    assert await before.info() is None
    assert (await audit(admin, client)).verdict == "SAME"


async def test_a_changed_message_is_found_by_the_auditor(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client, admin: asyncpg.Connection
) -> None:
    """A mirror that was filled by somebody else: the second event has other bytes."""
    await fill(log, 3)
    log_id = (await log.head()).log_id
    mirror = Mirror(client, log_id)
    await mirror.create(1)
    for message in await read_messages(admin, 0, 10, log_id):
        body = message.body if message.position != 2 else message.body + b"\x20\x01"
        await client.jetstream().publish(message.subject, body, headers=message.headers)
    verdict = await audit(admin, client)
    assert (verdict.verdict, verdict.first_difference) == ("DIFFERENT", 2)
    code, output = await _auditor_process(database, bus)
    assert code == 1
    assert output["first_difference"] == 2


async def test_the_relay_process_works_stops_on_sigterm_and_the_auditor_process_agrees(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client
) -> None:
    process = await _relay_process(database, bus)
    await fill(log, 25)
    await mirrored(client, log, 25)
    code, output = await _auditor_process(database, bus)
    assert (code, output["verdict"], output["mirror_count"]) == (0, "SAME", 25)
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(_stderr(process), SECONDS_MAX)
    assert await process.wait() == 0


async def test_large_events_are_mirrored(
    log: PostgresEventLog, database: Database, bus: Bus, client: Client, admin: asyncpg.Connection
) -> None:
    for _ in range(6):
        stream = run_stream()
        await log.append(command(StreamAppend(stream, 0, [detail(stream, "x" * 1_040_000)])))
    async with relaying(database, bus):
        await mirrored(client, log, 6)
    assert (await audit(admin, client)).verdict == "SAME"


def _environment(database: Database, bus: Bus) -> Mapping[str, str]:
    return {
        **os.environ,
        "RUNYARD_DATABASE_URL": database.url("relay"),
        "RUNYARD_NATS_URL": bus.url,
        "RUNYARD_NATS_USER": "relay",
        "RUNYARD_NATS_PASSWORD": bus.password("relay"),
    }


async def _relay_process(database: Database, bus: Bus) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "runyard_eventlog.relay",
        env=_environment(database, bus),
        stderr=asyncio.subprocess.PIPE,
    )


async def _stderr(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    return (await process.stderr.read()).decode()


async def _auditor_process(database: Database, bus: Bus) -> tuple[int, dict[str, object]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "runyard_eventlog.auditor",
        env=_environment(database, bus),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    assert process.returncode is not None
    return process.returncode, json.loads(output)
