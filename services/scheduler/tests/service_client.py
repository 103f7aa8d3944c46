"""A client of the whole scheduler, as its process serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from runyard.event.v1.read_pb2 import ReadOptions
from runyard.run.v1 import scheduler_service_pb2 as pb
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard.run.v1.types_pb2 import Run
from runyard_contracts.ids import uuid7

from .conftest import RunScheduler
from .yard import CLIENT_TOKEN, WAIT_SECONDS, ScriptedAgent, a_submit

CLIENT = (("authorization", f"Bearer {CLIENT_TOKEN}"),)


class Client:
    """A client of the scheduler with a token and a deadline on every call, and the agents beside it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.agents: list[ScriptedAgent] = []
        self.channel = grpc.aio.insecure_channel(address)
        self._stub = SchedulerServiceStub(self.channel)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        for agent in self.agents:
            await agent.close()
        await self.channel.close()

    async def submit(self, request: pb.SubmitRunRequest | None = None) -> pb.SubmitRunResponse:
        return await self._stub.SubmitRun(request or a_submit(), metadata=CLIENT, timeout=WAIT_SECONDS)

    async def get(self, name: str, read: ReadOptions | None = None) -> Run:
        request = pb.GetRunRequest(name=name, read=read)
        return (await self._stub.GetRun(request, metadata=CLIENT, timeout=WAIT_SECONDS)).run

    async def runs(self, **request: Any) -> pb.ListRunsResponse:
        return await self._stub.ListRuns(pb.ListRunsRequest(**request), metadata=CLIENT, timeout=WAIT_SECONDS)

    async def stop(self, name: str, reason: str = "enough") -> pb.StopRunResponse:
        request = pb.StopRunRequest(request_id=uuid7(), name=name, reason=reason)
        return await self._stub.StopRun(request, metadata=CLIENT, timeout=WAIT_SECONDS)

    async def node(self, node_id: str, read: ReadOptions | None = None) -> pb.GetNodeResponse:
        request = pb.GetNodeRequest(node_id=node_id, read=read)
        return await self._stub.GetNode(request, metadata=CLIENT, timeout=WAIT_SECONDS)

    async def nodes(self, **request: Any) -> pb.ListNodesResponse:
        return await self._stub.ListNodes(
            pb.ListNodesRequest(**request), metadata=CLIENT, timeout=WAIT_SECONDS
        )

    def watch(self, **request: Any) -> grpc.aio.UnaryStreamCall[pb.WatchRunsRequest, pb.WatchRunsResponse]:
        return self._stub.WatchRuns(pb.WatchRunsRequest(**request), metadata=CLIENT, timeout=3 * WAIT_SECONDS)

    async def until(self, run_id: str, *types: str, after_position: int = 0) -> list[str]:
        """Watch a run until an event of each of these types was seen; gives all types seen."""
        seen: list[str] = []
        call = self.watch(after_position=after_position, name=run_id)
        async for item in call:
            if item.WhichOneof("item") == "event":
                seen.append(item.event.type.removeprefix("runyard.run."))
            if set(types) <= set(seen):
                break
        call.cancel()
        return seen


async def fresh(client: Client, run_id: str) -> Run:
    """Read a run at the newest position that a write of ours has made."""
    position = (await client.submit()).position
    return await client.get(run_id, ReadOptions(min_position=position))


def reason(error: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> str:
    status = rpc_status.from_call(error.value)
    assert status is not None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    raise AssertionError("no ErrorInfo")


@pytest.fixture
async def client(run_scheduler: RunScheduler) -> AsyncIterator[Client]:
    async with run_scheduler() as address, Client(address) as made:
        yield made


async def attach(client: Client, node_id: str = "node-1") -> ScriptedAgent:
    agent = ScriptedAgent(client.address, node_id)
    client.agents.append(agent)
    await agent.hello()
    return agent
