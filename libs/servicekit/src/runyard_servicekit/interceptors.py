"""What happens around every RPC: token, trace, persons' names, error mapping, one log line. In this order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from inspect import isasyncgen
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_status import rpc_status

from runyard_contracts.ids import uuid7
from runyard_core.errors import RunyardError, Unauthenticated
from runyard_servicekit.auth import Caller, Callers, current_caller, set_current_caller
from runyard_servicekit.edge import Edge, is_left_sealed
from runyard_servicekit.error_mapping import grpc_code_of, status_of
from runyard_servicekit.open_streams import OpenStreams
from runyard_servicekit.tracing import server_span

if TYPE_CHECKING:
    # Untyped by nature: requests and responses of every service pass here. Generic in the stubs only.
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]
    Around = Callable[[Context], AbstractAsyncContextManager[None]]

_OPEN_SERVICES = ("/grpc.health.v1.Health/",)

log = structlog.get_logger("runyard.rpc")


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Authenticates, traces, keeps names of persons out, maps errors and logs every RPC of a server."""

    def __init__(self, callers: Callers, edge: Edge | None = None) -> None:
        """Let these callers in; without an edge names pass as they are."""
        self._callers = callers
        self._edge = edge
        self.streams = OpenStreams(callers)
        """Those that are served now; ``end_void_ones`` has to run."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler of a method."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith(_OPEN_SERVICES):
            return handler
        return _wrapped(handler, lambda context: self._around(method, context), self._edge, self.streams)

    @asynccontextmanager
    async def _around(self, method: str, context: Context) -> AsyncIterator[None]:
        started = time.perf_counter()
        metadata = _metadata(context)
        reason = ""
        with server_span(method, metadata):
            try:
                set_current_caller(await self._known(_bearer(metadata)))
                yield
            except RunyardError as error:
                reason = error.code
                status = status_of(error)
                log.info(
                    "refused",
                    method=method,
                    reason=reason,
                    code=grpc_code_of(status).name,
                    message=error.message,
                )
                status.message = await self._opened(status.message)
                await context.abort_with_status(rpc_status.to_status(status))
            except (grpc.aio.AbortError, GeneratorExit):
                raise
            except Exception as error:  # the top of every RPC: say it once, keep the service up
                error_id = uuid7()
                reason = "INTERNAL"
                log.exception("failed", method=method, error_id=error_id)
                hidden = RunyardError(
                    f"internal error {error_id} in {method}; the service's log has the details",
                    metadata={"error_id": error_id, "error_type": type(error).__name__},
                )
                await context.abort_with_status(rpc_status.to_status(status_of(hidden)))
            finally:
                milliseconds = round((time.perf_counter() - started) * 1000, 2)
                log.debug("served", method=method, milliseconds=milliseconds, reason=reason)

    async def _known(self, token: str) -> Caller:
        caller = self._callers.caller(token)
        if self._edge is None:
            return caller
        return replace(caller, actor=await self._edge.seal_actor(caller.actor))

    async def _opened(self, text: str) -> str:
        """Open names in a refusal; one more thing that fails must not hide it."""
        try:
            return await self._edge.open_text(text) if self._edge is not None else text
        except RunyardError:
            return text


def _bearer(metadata: dict[str, str]) -> str:
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("this call needs a token: send metadata 'authorization: Bearer <token>'")
    return token


def _wrapped(handler: Handler, around: Around, edge: Edge | None, streams: OpenStreams) -> Handler:
    """Put ``around`` around whichever of the four behaviours the handler has."""
    deserialize, serialize = handler.request_deserializer, handler.response_serializer
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary, around, edge), deserialize, serialize
        )
    if handler.stream_unary is not None:
        return grpc.stream_unary_rpc_method_handler(
            _unary(handler.stream_unary, around, None), deserialize, serialize
        )
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            _stream(handler.unary_stream, around, edge, streams), deserialize, serialize
        )
    # Streams of requests come from agents, which name persons as they were told: sealed.
    return grpc.stream_stream_rpc_method_handler(
        _stream(handler.stream_stream, around, None, streams), deserialize, serialize
    )


def _unary(behaviour: Any, around: Around, edge: Edge | None) -> Any:
    async def call(request: Any, context: Context) -> Any:
        async with around(context):
            if edge is None or "client" not in current_caller().roles:
                return await behaviour(request, context)
            await edge.seal_request(request)
            answer = await behaviour(request, context)
            return answer if is_left_sealed() else await edge.open_answer(answer)

    return call


def _stream(behaviour: Any, around: Around, edge: Edge | None, streams: OpenStreams) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        async with around(context):
            opener = edge if "client" in current_caller().roles else None
            if opener is not None:
                await opener.seal_request(request)
            answers = behaviour(request, context)
            if not isasyncgen(answers):
                raise TypeError(f"{behaviour!r} must be an async generator")
            try:
                with streams.opened(_bearer(_metadata(context))) as stream:
                    while (answer := await stream.next(lambda: anext(answers, None))) is not None:
                        if opener is not None and not is_left_sealed():
                            yield await opener.open_answer(answer)
                        else:
                            yield answer
            finally:
                await answers.aclose()

    return call


def _metadata(context: Context) -> dict[str, str]:
    received = context.invocation_metadata() or ()
    return {key: value for key, value in received if isinstance(value, str)}
