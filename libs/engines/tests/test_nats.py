from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import StreamConfig

from runyard_contracts import subjects
from runyard_engines import NatsServer, NatsSpec, PortInUse, agent_user, relay_user, service_user, start_ready
from runyard_engines.nats import configuration
from runyard_testkit import Bus, seen_by_server

EVENTS = StreamConfig(name="EVENTS_x", subjects=[subjects.EVENT_WILDCARD])
TELEMETRY = StreamConfig(name=subjects.TELEMETRY_STREAM, subjects=[subjects.TELEMETRY_WILDCARD])


async def refused_publishes(bus: Bus, user: str, tried: list[str]) -> list[str]:
    """Publish to each subject and give those that the server refused, once it has seen all of them."""
    refused: list[str] = []
    async with await bus.connect(user, error_cb=noting(refused)) as connection:
        for subject in tried:
            await connection.publish(subject, b"x")
        await seen_by_server(connection)
    return [subject for subject in tried if any(f'"{subject.lower()}"' in text for text in refused)]


async def refused_subscriptions(bus: Bus, user: str, tried: list[str]) -> list[str]:
    refused: list[str] = []
    async with await bus.connect(user, error_cb=noting(refused)) as connection:
        for subject in tried:
            await connection.subscribe(subject)
        await seen_by_server(connection)
    return [subject for subject in tried if any(f'"{subject.lower()}"' in text for text in refused)]


def noting(refused: list[str]) -> Callable[[Exception], Awaitable[None]]:
    async def note(error: Exception) -> None:
        refused.append(str(error))

    return note


FOREIGN = [
    "runyard.event.run.1",
    subjects.HEAD,
    "runyard.committed.node-2",
    "runyard.telemetry.node-2.gpu",
    "$JS.API.STREAM.PURGE.EVENTS_x",
    "$JS.API.STREAM.DELETE.TELEMETRY",
    "_INBOX.somebody",
]


async def test_an_agent_publishes_its_own_telemetry_and_nothing_else(bus: Bus) -> None:
    assert await refused_publishes(bus, "agent-node-1", ["runyard.telemetry.node-1.gpu", *FOREIGN]) == FOREIGN


async def test_an_agent_hears_its_own_inbox_and_marks_and_nothing_else(bus: Bus) -> None:
    own = ["runyard.committed.node-1", "_INBOX_agent_node-1.x"]
    foreign = ["runyard.committed.node-2", "_INBOX_agent_node-2.>", "_INBOX.>", "runyard.telemetry.>", ">"]
    assert await refused_subscriptions(bus, "agent-node-1", [*own, *foreign]) == foreign


@pytest.mark.parametrize("user", ["scheduler", "artifact", "cost", "lineage"])
async def test_a_service_only_listens(bus: Bus, user: str) -> None:
    assert await refused_publishes(bus, user, FOREIGN) == FOREIGN
    assert await refused_subscriptions(bus, user, [subjects.HEAD]) == []


async def test_metrics_publishes_marks_and_manages_no_other_stream(bus: Bus) -> None:
    allowed = ["runyard.committed.node-2", "$JS.API.STREAM.DELETE.TELEMETRY"]
    refused = [subject for subject in FOREIGN if subject not in allowed]
    assert await refused_publishes(bus, "metrics", FOREIGN) == refused


async def test_the_relay_leaves_the_telemetry_stream_alone(bus: Bus) -> None:
    assert await refused_publishes(
        bus,
        "relay",
        [
            "runyard.event.run.1",
            subjects.HEAD,
            "$JS.API.STREAM.PURGE.EVENTS_x",
            "$JS.API.STREAM.PURGE.TELEMETRY",
        ],
    ) == ["$JS.API.STREAM.PURGE.TELEMETRY"]


async def test_telemetry_goes_in_once_and_is_acknowledged_to_the_agent(bus: Bus) -> None:
    async with await bus.connect("metrics") as metrics, await bus.connect("agent-node-1") as agent:
        stream = metrics.jetstream()
        await stream.add_stream(TELEMETRY)
        publish = agent.jetstream().publish
        first = await publish("runyard.telemetry.node-1.gpu", b"1", headers={"Nats-Msg-Id": "one"})
        again = await publish("runyard.telemetry.node-1.gpu", b"1", headers={"Nats-Msg-Id": "one"})
        assert (first.seq, first.duplicate, again.seq, again.duplicate) == (1, None, 1, True)
        consumer = await stream.pull_subscribe("runyard.telemetry.>", durable="metrics", stream="TELEMETRY")
        (message,) = await consumer.fetch(5, timeout=20)
        assert (message.subject, message.headers) == ("runyard.telemetry.node-1.gpu", {"Nats-Msg-Id": "one"})
        await message.ack_sync(timeout=20)
        marks = await agent.subscribe("runyard.committed.node-1")
        await seen_by_server(agent)
        await metrics.publish("runyard.committed.node-1", b"mark")
        assert (await marks.next_msg(timeout=20)).data == b"mark"


async def test_an_agent_cannot_have_the_acknowledgement_written_into_the_mirror(bus: Bus) -> None:
    async with (
        await bus.connect("relay") as relay,
        await bus.connect("metrics") as metrics,
        await bus.connect("agent-node-1") as agent,
    ):
        mirror = relay.jetstream()
        await mirror.add_stream(EVENTS)
        await metrics.jetstream().add_stream(TELEMETRY)
        await agent.publish("runyard.telemetry.node-1.gpu", b"x", reply="runyard.event.run.forged")
        # Answered after the one before it, so its acknowledgement has gone wherever it goes.
        await agent.jetstream().publish("runyard.telemetry.node-1.gpu", b"y")
        await relay.flush()
        assert (await mirror.stream_info("EVENTS_x")).state.messages == 0


async def test_without_a_stream_the_agent_is_told_at_once(bus: Bus) -> None:
    async with await bus.connect("agent-node-1") as agent:
        with pytest.raises((NoRespondersError, NatsError)):
            await agent.jetstream().publish("runyard.telemetry.node-1.gpu", b"x", timeout=20)


async def test_nobody_gets_in_without_a_password(bus: Bus) -> None:
    refused: list[str] = []
    assert await admitted(bus.url, "", "", refused) is None
    assert await admitted(bus.url, "relay", "wrong", refused) is None
    assert refused.count("nats: 'Authorization Violation'") == 2


async def test_a_stream_survives_a_kill(own_nats: NatsServer) -> None:
    bus = Bus(own_nats)
    async with await bus.connect("relay", allow_reconnect=False) as connection:
        stream = connection.jetstream()
        await stream.add_stream(EVENTS)
        for number in range(20):
            await stream.publish(f"runyard.event.run.{number}", b"x")
        assert own_nats.process is not None
        own_nats.process.kill()
        await own_nats.process.wait()
    await start_ready(own_nats)
    async with await bus.connect("relay") as connection:
        assert (await connection.jetstream().stream_info("EVENTS_x")).state.messages == 20


async def test_a_new_node_gets_in_without_a_restart(own_nats: NatsServer) -> None:
    async with await Bus(own_nats).connect("relay") as kept:
        own_nats.set_users([*own_nats.spec.users, agent_user("node-9", "nine")])

        refused: list[str] = []
        async with asyncio.timeout(20):
            while not (new := await admitted(own_nats.spec.url, "agent-node-9", "nine", refused)):
                await kept.flush()  # until the server has read its configuration again
        await new.close()
        assert kept.is_connected


async def admitted(url: str, user: str, password: str, refused: list[str]) -> Client | None:
    connection = Client()
    try:
        await connection.connect(
            url, user=user, password=password, allow_reconnect=False, error_cb=noting(refused)
        )
    except (NatsError, OSError):  # refused, or cut off before it was said
        await connection.close()
        return None
    return connection


async def test_a_taken_port_is_named(nats_server: NatsServer, tmp_path: Path) -> None:
    spec = NatsSpec(tmp_path, nats_server.spec.port, nats_server.spec.users, tmp_path / "nats.log")
    with pytest.raises(PortInUse, match=f"nats cannot listen on 127.0.0.1:{spec.port}"):
        await start_ready(NatsServer(spec))


async def test_the_passwords_are_readable_by_their_owner_only(nats_server: NatsServer) -> None:
    assert stat.S_IMODE(nats_server.spec.config_path.stat().st_mode) == 0o600


def test_the_configuration_listens_on_loopback_and_syncs_every_write(tmp_path: Path) -> None:
    users = (relay_user("r"), service_user("cost", "c"), agent_user("a.b", "x"))
    written = json.loads(configuration(NatsSpec(tmp_path, 4222, users, tmp_path / "log")))
    assert written["listen"] == "127.0.0.1:4222"
    assert written["jetstream"]["sync_interval"] == "always"
    (agent,) = written["accounts"]["AGENTS"]["users"]
    assert agent["permissions"]["publish"] == {"allow": ["runyard.telemetry.a_b.>"]}
    cost = written["accounts"]["YARD"]["users"][1]
    assert cost["permissions"]["publish"] == {"deny": [">"]}
