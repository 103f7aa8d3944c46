"""A gRPC channel with the yard's manners: token, deadline and retries on every call, decoded errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from runyard_client.errors import ClientError, decode_error
from runyard_contracts.gate import service_name
from runyard_core.errors import Unavailable
from runyard_core.retry import Backoff, Retries, Telling, retried

if TYPE_CHECKING:
    from runyard_contracts.pinned_gate import Gate

Result = TypeVar("Result")

DEADLINE_SECONDS = 15.0

# Every mutation carries a request_id, so repeating any call is safe.
_BACKOFF = Backoff(first_seconds=0.2, seconds_max=2.0, tries_max=4)
# gRPC keeps what was written into a stream until somebody has answered it; it knows nothing of RetryInfo.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "runyard.run.v1.HandsOnService", "method": method}
                    for method in ("Exec", "Connect")
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)
_OPTIONS = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class YardChannel:
    """What a generated stub needs of a channel, over a real one.

    Unary calls get a deadline unless the caller gives another; streams have none, as a watch lasts as long
    as somebody looks. The types are gRPC's own: calls through it are typed by the stub.
    """

    def __init__(self, service: str, address: str, token: str, gate: Gate | None = None) -> None:
        """Prepare a channel, through the gate if given; it connects with the first call."""
        self._decoded = partial(decode_error, service=service, address=address, is_elsewhere=gate is not None)
        # ProjectionService is every service's: a router in front of them goes by the service's name.
        self._metadata = (("authorization", f"Bearer {token}"), ("runyard-service", service))
        self._channel = (
            grpc.aio.insecure_channel(address, options=_OPTIONS)
            if gate is None
            else gate.channel(service_name(service), _OPTIONS)
        )

    def unary_unary(self, method: str, **settings: Any) -> Callable[..., Any]:
        """Make a callable for a method with one request and one response."""
        call = self._channel.unary_unary(method, **settings)

        async def invoke(request: Any, *, timeout: float = DEADLINE_SECONDS) -> Any:
            return await self._answer(
                lambda seconds: call(request, timeout=seconds, metadata=self._metadata), timeout
            )

        return invoke

    def unary_stream(self, method: str, **settings: Any) -> Callable[..., Any]:
        """Make a callable for a method with one request and a stream of responses."""
        call = self._channel.unary_stream(method, **settings)

        async def invoke(request: Any, *, timeout: float | None = None) -> AsyncIterator[Any]:
            async def begin(seconds: float | None) -> tuple[Any, Any]:
                stream = call(request, timeout=seconds, metadata=self._metadata)
                try:
                    return stream, await stream.read()
                except BaseException:
                    stream.cancel()
                    raise

            stream, response = await self._answer(begin, timeout)
            try:
                while response is not grpc.aio.EOF:
                    yield response
                    response = await stream.read()
            except grpc.aio.AioRpcError as error:
                raise self._decoded(error) from None
            finally:
                stream.cancel()

        return invoke

    def stream_stream(self, method: str, **settings: Any) -> Callable[..., Any]:
        """Make a callable for a method with streams both ways."""
        call = self._channel.stream_stream(method, **settings)

        def invoke(*, timeout: float | None = None) -> Conversation:
            stream = call(timeout=timeout, metadata=self._metadata)
            return Conversation(stream, self._decoded)

        return invoke

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close()

    async def _answer(
        self, ask: Callable[[float | None], Awaitable[Result]], timeout: float | None
    ) -> Result:
        """Ask until there is a first answer, with what is left of the deadline.

        Asked again is a service that is away, or says when to come back: not before that, and not beyond the
        deadline, ``DEADLINE_SECONDS`` from now for a stream that has none.
        """
        now = asyncio.get_running_loop().time
        ends_at = None if timeout is None else now() + timeout

        async def try_once() -> Result:
            try:
                return await ask(None if ends_at is None else max(ends_at - now(), 0.0))
            except grpc.aio.AioRpcError as error:
                decoded = self._decoded(error)
                if decoded.code == "UNAVAILABLE" or decoded.retry_seconds is not None:
                    raise _Passing(decoded) from None
                raise decoded from None

        # It is over within seconds, so nobody is told of it before.
        silent = Telling(lambda _: None)
        retries = Retries(
            "the yard", _BACKOFF, silent, seconds_max=DEADLINE_SECONDS if timeout is None else timeout
        )
        try:
            return await retried(try_once, (_Passing,), retries)
        except _Passing as passing:
            raise passing.error from None


class _Passing(Unavailable):
    """An error after which a service is asked again."""

    def __init__(self, error: ClientError) -> None:
        super().__init__(error.message, pause_seconds_min=error.retry_seconds or 0.0)
        self.error = error


class Conversation:
    """What a stub gives for a method with streams both ways: gRPC's own call, with decoded errors."""

    def __init__(self, stream: Any, decoded: Callable[[grpc.aio.AioRpcError], ClientError]) -> None:
        """Speak over a stream that was opened."""
        self._stream = stream
        self._decoded = decoded

    async def write(self, request: Any) -> None:
        """Send a message. To a stream that has ended nothing is sent: ``read`` says why."""
        try:
            await self._stream.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    async def done_writing(self) -> None:
        """Say that nothing more will be sent."""
        try:
            await self._stream.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    async def read(self) -> Any:
        """Wait for the next message; ``grpc.aio.EOF`` at the end.

        Raises:
            ClientError: the service ended the stream with an error, or is gone.
        """
        try:
            return await self._stream.read()
        except grpc.aio.AioRpcError as error:
            raise self._decoded(error) from None

    def cancel(self) -> None:
        """End it at once."""
        self._stream.cancel()
