"""When a process is ready: it answered a real request, not just opened a port."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runyard.node.v1.types_pb2 import NodeState
from runyard.run.v1.scheduler_service_pb2 import GetNodeRequest
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard_contracts import gate
from runyard_engines import ChildProcess

LOOK_SECONDS = 0.1
CALL_SECONDS = 5.0

# The default first waits a second before it tries a refused connection again.
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)

Ready = Callable[[], Awaitable[None]]
"""Returns when something is ready, and else waits for ever."""


async def until(process: ChildProcess, ready: Ready, timeout: float) -> None:
    """Wait until a process is ready.

    Raises:
        EngineFailed: it ended, or was not ready after ``timeout`` seconds.
    """
    waiting = asyncio.ensure_future(ready())
    ended = asyncio.ensure_future(process.wait())
    try:
        done, _ = await asyncio.wait({waiting, ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        ended.cancel()
    if ended in done:
        raise process.failed("did not start")
    if waiting not in done:
        raise process.failed(f"was not ready within {timeout:.0f} s")
    waiting.result()


def serves(port: int, instance: str) -> Ready:
    """Wait until a service's gRPC health says that it serves, and that it is this instance.

    A port that was free may be another's by the time our process wants it, and that one answers too.
    """

    async def ready() -> None:
        await _ask_until_yes(lambda: answers(port, instance, wait=True))

    return ready


async def answers(port: int, name: str = "", *, wait: bool = False) -> bool:
    """Ask gRPC health whether it serves what has a name; ``wait`` lets it start first, for a few seconds."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest(service=name)
        try:
            answer = await check(request, timeout=CALL_SECONDS, wait_for_ready=wait)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def node_attached(port: int, token: str, node_id: str) -> Ready:
    """Wait until the scheduler says that the node's agent is attached."""

    async def ready() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
            scheduler = SchedulerServiceStub(channel)
            await _ask_until_yes(lambda: _is_attached(scheduler, token, node_id))

    return ready


def opens_tls(host: str, port: int) -> Ready:
    """Wait until the gate opens TLS."""

    async def ready() -> None:
        await _ask_until_yes(lambda: _opens_tls(host, port))

    return ready


def runs() -> Ready:
    """Wait for nothing: a process without an interface is ready when it has been started."""

    async def ready() -> None:
        return

    return ready


async def _ask_until_yes(question: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await question():
            return
        await asyncio.sleep(LOOK_SECONDS)  # nothing announces it


async def _opens_tls(host: str, port: int) -> bool:
    any_certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing is said on this connection
    any_certificate.check_hostname = False
    any_certificate.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(CALL_SECONDS):
            _, writer = await asyncio.open_connection(
                host, port, ssl=any_certificate, server_hostname=gate.SCHEDULER
            )
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


async def _is_attached(scheduler: SchedulerServiceStub, token: str, node_id: str) -> bool:
    try:
        answer = await scheduler.GetNode(
            GetNodeRequest(node_id=node_id),
            timeout=CALL_SECONDS,
            wait_for_ready=True,
            metadata=(("authorization", f"Bearer {token}"),),
        )
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.node.state == NodeState.NODE_STATE_ATTACHED)
