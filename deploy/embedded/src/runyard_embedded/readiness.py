"""When a process is ready: it answered a real request, not just opened a port."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runyard.node.v1.types_pb2 import NodeState
from runyard.run.v1.scheduler_service_pb2 import ListNodesRequest
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard_engines import ChildProcess
from runyard_engines.process import POLL_SECONDS

CALL_SECONDS = 2.0

Question = Callable[[], Awaitable[bool]]


async def until(process: ChildProcess, question: Question, timeout: float) -> None:
    """Ask until the answer is yes.

    Raises:
        EngineFailed: the process ended, or the answer stayed no for ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not await question():
        if await process.wait(POLL_SECONDS) is not None:
            raise process.failed("did not start")
        if time.monotonic() > deadline:
            raise process.failed(f"was not ready within {timeout:.0f} s")


def serves(port: int) -> Question:
    """Ask a service's gRPC health whether it serves."""

    async def question() -> bool:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            try:
                answer = await check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return question


def node_attached(port: int, token: str, node_id: str) -> Question:
    """Ask the scheduler whether the node's agent is attached."""

    async def question() -> bool:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                answer = await SchedulerServiceStub(channel).ListNodes(
                    ListNodesRequest(page_size=1000),
                    timeout=CALL_SECONDS,
                    metadata=(("authorization", f"Bearer {token}"),),
                )
            except grpc.aio.AioRpcError:
                return False
            return any(
                node.node_id == node_id and node.state == NodeState.NODE_STATE_ATTACHED
                for node in answer.nodes
            )

    return question


def runs() -> Question:
    """Ask nothing: a process without an interface is ready when it has been started."""

    async def question() -> bool:
        return True

    return question
