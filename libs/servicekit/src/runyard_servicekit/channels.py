"""Channels to other services: token and trace on every call, keepalive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from runyard_servicekit.server import MESSAGE_BYTES_MAX
from runyard_servicekit.tracing import current_traceparent

_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def service_channel(address: str, token: str) -> grpc.aio.Channel:
    """Open a channel to another service; every call carries our token and the current trace."""
    return grpc.aio.insecure_channel(
        address, options=list(_OPTIONS), interceptors=[_UnaryUnary(token), _UnaryStream(token)]
    )


def _with_metadata(details: Any, token: str) -> Any:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata.add("authorization", f"Bearer {token}")
    if traceparent := current_traceparent():
        metadata.add("traceparent", traceparent)
    return details._replace(metadata=metadata)


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(_with_metadata(client_call_details, self._token), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(_with_metadata(client_call_details, self._token), request)
