"""A service's gRPC server: interceptors, health, reflection, keepalive that suits agents behind NAT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from runyard_core.errors import Unavailable
from runyard_servicekit.auth import Callers, Directory, Tokens
from runyard_servicekit.edge import Edge
from runyard_servicekit.interceptors import ServiceInterceptor
from runyard_servicekit.settings import ServiceSettings

MESSAGE_BYTES_MAX = 16 * 1024 * 1024

_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Defaults close a quiet client's stream with "too many pings" after five minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # Two services on one port would otherwise share its calls without a word.
    ("grpc.so_reuseport", 0),
)

log = structlog.get_logger("runyard.server")

Register = Callable[[grpc.aio.Server], None]


@asynccontextmanager
async def serving(
    settings: ServiceSettings,
    service_names: Sequence[str],
    register: Register,
    edge: Edge | None = None,
    nodes: Directory | None = None,
) -> AsyncIterator[int]:
    """Serve gRPC while the block runs; gives the port. Calls in flight get a grace at the end.

    Args:
        settings: where to listen, and the tokens.
        service_names: full names of the services, for health and reflection.
        register: adds the servicers to the server.
        edge: keeps names of persons out; without it they pass as they are.
        nodes: knows the credentials of enrolled nodes; without it none of them may call.

    Raises:
        Unavailable: the address cannot be listened on (PORT_IN_USE).
        OSError: the tokens file cannot be read.
    """
    callers = Callers(Tokens(settings.tokens_file), nodes)
    interceptor = ServiceInterceptor(callers, edge)
    server = grpc.aio.server(interceptors=[interceptor], options=_OPTIONS)
    register(server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(
        [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    try:
        port = server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise Unavailable(
            f"cannot listen on {settings.listen}: it is in use or not this machine's; set RUNYARD_LISTEN",
            code="PORT_IN_USE",
        ) from error
    await server.start()
    for name in ("", *service_names, *filter(None, [settings.instance])):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("serving", listen=settings.listen, port=port, services=list(service_names))
    looking = asyncio.create_task(interceptor.streams.end_void_ones(), name="end void streams")
    try:
        yield port
    finally:
        looking.cancel()
        await checks.enter_graceful_shutdown()
        await server.stop(settings.stop_grace_seconds)
