"""What the tests of hands-on sessions share: a scheduler, a client of it, and an agent with a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest

from runyard.agent.v1 import hands_on_service_pb2 as agent_pb
from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.agent.v1.hands_on_service_pb2_grpc import HandsOnAgentServiceStub
from runyard.run.v1 import hands_on_service_pb2 as pb
from runyard.run.v1.events_pb2 import RunHandsOnClosed
from runyard.run.v1.hands_on_pb2 import Terminal
from runyard.run.v1.hands_on_service_pb2_grpc import HandsOnServiceStub

from .yard import (
    CLIENT_TOKEN,
    WAIT_SECONDS,
    MemoryYard,
    ScriptedAgent,
    started,
)

OF_CLIENT = (("authorization", f"Bearer {CLIENT_TOKEN}"),)
OF_AGENT = (("authorization", "Bearer agent-token-node-1"),)
JoinCall = grpc.aio.StreamStreamCall[agent_pb.JoinRequest, agent_pb.JoinResponse]
ConnectCall = grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]
ExecCall = grpc.aio.StreamStreamCall[pb.ExecRequest, pb.ExecResponse]


@dataclass
class Bench:
    """A yard with one running attempt, an agent that does what the test says, and a client."""

    yard: MemoryYard
    agent: ScriptedAgent
    grant: LeaseGrant
    client: HandsOnServiceStub
    joins: HandsOnAgentServiceStub

    async def exec(self, *command: str, terminal: Terminal | None = None) -> ExecCall:
        call: ExecCall = self.client.Exec(metadata=OF_CLIENT)
        start = pb.ExecStart(name=self.grant.run_id, command=command, terminal=terminal)
        await call.write(pb.ExecRequest(start=start))
        return call

    async def join(self) -> tuple[JoinCall, agent_pb.JoinTask]:
        """Join as ordered; gives the stream and its task."""
        order = (await self.agent.receive("hands_on_order")).hands_on_order
        call: JoinCall = self.joins.Join(metadata=OF_AGENT)
        await call.write(agent_pb.JoinRequest(hello=agent_pb.JoinHello(channel_id=order.channel_id)))
        return call, (await read_join(call)).task

    async def accept(self, *command: str) -> JoinCall:
        call, _ = await self.join()
        await call.write(agent_pb.JoinRequest(accepted=agent_pb.JoinAccepted(command=command)))
        return call

    async def opened_exec(self, *command: str) -> tuple[ExecCall, JoinCall]:
        """Open an exec up to the moment at which the agent may start it."""
        call = await self.exec(*command)
        join = await self.accept(*command)
        assert (await read_join(join)).WhichOneof("message") == "begin"
        assert (await read_exec(call)).WhichOneof("message") == "opened"
        return call, join

    async def closed(self) -> RunHandsOnClosed:
        """Wait until the record says that the session is over."""
        await self.yard.until(lambda: not open_sessions(self.yard, self.grant.run_id))
        history = await self.yard.ledger.history(self.grant.run_id)
        (closed,) = [each.message for each in history if isinstance(each.message, RunHandsOnClosed)]
        return closed


async def read_join(call: JoinCall) -> agent_pb.JoinResponse:
    async with asyncio.timeout(WAIT_SECONDS):
        answer = await call.read()
    assert isinstance(answer, agent_pb.JoinResponse), "the agent's stream has ended"
    return answer


async def read_exec(call: ExecCall) -> pb.ExecResponse:
    async with asyncio.timeout(WAIT_SECONDS):
        answer = await call.read()
    assert isinstance(answer, pb.ExecResponse), "the client's stream has ended"
    return answer


async def read_connection(call: ConnectCall) -> pb.ConnectResponse:
    async with asyncio.timeout(WAIT_SECONDS):
        answer = await call.read()
    assert isinstance(answer, pb.ConnectResponse), "the connection has ended"
    return answer


async def failure(call: ExecCall) -> tuple[grpc.StatusCode, str]:
    """Read to the end; gives the status that it ended with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await _read_to_the_end(call)
    return error.value.code(), str(error.value.details())


async def _read_to_the_end(call: ExecCall) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while await call.read() is not grpc.aio.EOF:
            pass


@asynccontextmanager
async def bench_of(yard: MemoryYard) -> AsyncIterator[Bench]:
    agent = await yard.attach()
    await yard.submit()
    grant = await agent.grant()
    await agent.report(started(grant))
    async with grpc.aio.insecure_channel(yard.address) as channel:
        client: HandsOnServiceStub = HandsOnServiceStub(channel)
        joins: HandsOnAgentServiceStub = HandsOnAgentServiceStub(channel)
        yield Bench(yard, agent, grant, client, joins)
    await agent.close()


@pytest.fixture
async def bench(yard: MemoryYard) -> AsyncIterator[Bench]:
    async with bench_of(yard) as made:
        yield made


def open_sessions(yard: MemoryYard, run_id: str) -> frozenset[str]:
    entry = yard.ledger.world.run(run_id)
    return frozenset() if entry is None else entry.run.open_session_ids
