"""Secrets of nodes, known from the events of their streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard.node.v1.events_pb2 import NodeCredentialIssued, NodeInvited, NodeRevoked
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_core.errors import Unauthenticated, Unavailable
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_servicekit.node_credentials import NodeCredentials

STREAM = stream_name("node", "gpu-1")
CONTEXT = Context(Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"), uuid7(), "/test")
INVITED = NodeInvited(node_id="gpu-1", token_sha256="token")
REVOKED = NodeRevoked(node_id="gpu-1", credential_sha256="first")


def issued(credential: str) -> NodeCredentialIssued:
    return NodeCredentialIssued(
        node_id="gpu-1", credential_sha256=credential, bus_password_bcrypt=f"hash of {credential}"
    )


async def log_with(*messages: Message) -> MemoryEventLog:
    log = MemoryEventLog()
    events = tuple(wrap(message, STREAM, CONTEXT, datetime.now(UTC)) for message in messages)
    await log.append(AppendCommand(CommandId(uuid7()), [StreamAppend(STREAM, 0, events)]))
    return log


@asynccontextmanager
async def following(log: MemoryEventLog) -> AsyncIterator[NodeCredentials]:
    credentials = NodeCredentials()
    with pytest.raises(Unavailable):
        credentials.caller("nobody knows yet")
    task = asyncio.create_task(credentials.follow(log))
    try:
        async with asyncio.timeout(20):
            await credentials.read.wait()
        yield credentials
    finally:
        task.cancel()


async def test_a_token_may_be_handed_in_and_nothing_else() -> None:
    async with following(await log_with(INVITED)) as credentials:
        caller = credentials.caller("token")
        assert caller is not None
        assert (caller.name, caller.roles, caller.token_sha256) == (
            "agent:gpu-1",
            frozenset({"invited"}),
            "token",
        )
        assert credentials.bus_passwords() == {}


async def test_a_credential_makes_its_holder_the_agent_of_its_node() -> None:
    async with following(await log_with(INVITED, issued("first"))) as credentials:
        caller = credentials.caller("first")
        assert caller is not None
        assert (caller.name, caller.roles) == ("agent:gpu-1", frozenset({"agent"}))
        assert credentials.bus_passwords() == {"gpu-1": "hash of first"}
        assert credentials.caller("other") is None


async def test_what_was_revoked_or_replaced_is_refused_by_its_reason() -> None:
    async with following(await log_with(issued("first"), REVOKED)) as credentials:
        with pytest.raises(Unauthenticated, match="was revoked") as refused:
            credentials.caller("first")
        assert refused.value.code == "NODE_REVOKED"
        assert credentials.bus_passwords() == {}
    async with following(await log_with(issued("first"), issued("second"))) as credentials:
        with pytest.raises(Unauthenticated) as refused:
            credentials.caller("first")
        assert refused.value.code == "CREDENTIAL_REPLACED"
        assert credentials.bus_passwords() == {"gpu-1": "hash of second"}


async def test_an_event_that_comes_twice_changes_nothing_the_second_time() -> None:
    log = await log_with(issued("first"), REVOKED, issued("second"))
    credentials = NodeCredentials()
    told: list[str] = []
    credentials.on_change(told.append)
    events = await log.read_stream(STREAM)
    for event in [*events, *events]:
        credentials.apply(event)
    assert told == ["gpu-1"] * 3
    assert credentials.bus_passwords() == {"gpu-1": "hash of second"}
