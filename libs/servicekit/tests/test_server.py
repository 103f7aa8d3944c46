"""The server's interceptors, on a real in-process server over loopback."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from runyard.event.v1.envelope_pb2 import Actor
from runyard.history.v1 import history_service_pb2 as pb
from runyard.history.v1 import history_service_pb2_grpc as rpc
from runyard_core.errors import InvalidInput, NotFound
from runyard_core.retry import Telling
from runyard_servicekit import open_streams
from runyard_servicekit.auth import Tokens, current_caller
from runyard_servicekit.edge import Edge
from runyard_servicekit.server import serving
from runyard_servicekit.settings import ServiceSettings
from runyard_servicekit.tracing import current_traceparent

TOKEN = "a-token-of-alice"
SERVICE_TOKEN = "a-token-of-a-service"
SERVICE = "runyard.history.v1.HistoryService"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


seen: list[str] = []
"""Who called, as the service saw it."""

ENDLESS = 2
"""Watched from here, events never end."""
left = asyncio.Event()
"""Set when nobody watches them any more."""


class _Servicer(rpc.HistoryServiceServicer):
    async def GetLogHead(self, request: object, context: object) -> pb.GetLogHeadResponse:
        seen.append(current_caller().name)
        return pb.GetLogHeadResponse(log_id=f"{current_caller().name} {current_traceparent()}")

    async def ListEvents(self, request: pb.ListEventsRequest, context: object) -> pb.ListEventsResponse:
        if request.filter.actor:
            raise NotFound(f"nobody is called {request.filter.actor}")
        if request.page_size < 0:
            raise InvalidInput("page_size is negative", field_violations={"page_size": "negative"})
        raise ValueError("a secret detail")

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: object
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        try:
            yield pb.WatchEventsResponse(bookmark_position=1)
            while request.after_position == ENDLESS:
                yield pb.WatchEventsResponse(event=pb.EventView(data_json="x" * 500_000))
        finally:
            left.set()
        if request.after_position:
            await asyncio.Event().wait()
        raise NotFound("no such stream", code="STREAM_NOT_FOUND", metadata={"stream": "x"})


class _Edge:
    """Seals by writing in capitals."""

    async def seal_actor(self, actor: Actor) -> Actor:
        return Actor(kind=actor.kind, id=actor.id.upper())

    async def seal_request(self, request: pb.ListEventsRequest) -> None:
        if isinstance(request, pb.ListEventsRequest):
            request.filter.actor = request.filter.actor.upper()

    async def open_answer(self, answer: Any) -> Any:
        return pb.GetLogHeadResponse(log_id=answer.log_id.lower()) if hasattr(answer, "log_id") else answer

    async def open_text(self, text: str) -> str:
        return text.lower()


def _write_tokens(folder: Path, **more: str | None) -> Path:
    entries = [
        {"sha256": hashlib.sha256(token.encode()).hexdigest(), "actor": "user:alice", "roles": [role], **more}
        for token, role in ((TOKEN, "client"), (SERVICE_TOKEN, "service"))
    ]
    tokens = folder / "tokens.json"
    tokens.write_text(json.dumps({"tokens": entries}))
    return tokens


@asynccontextmanager
async def _served(folder: Path, edge: Edge | None = None) -> AsyncIterator[grpc.aio.Channel]:
    tokens = _write_tokens(folder)
    settings = ServiceSettings(tokens_file=tokens, stop_grace_seconds=0)
    register = lambda server: rpc.add_HistoryServiceServicer_to_server(_Servicer(), server)  # type: ignore[abstract]  # noqa: E731
    async with (
        serving(settings, [SERVICE], register, edge) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with _served(tmp_path) as channel:
        yield channel


def _metadata(token: str = TOKEN) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"), ("traceparent", TRACEPARENT))


async def test_a_call_with_a_known_token_names_its_caller_and_continues_its_trace(
    channel: grpc.aio.Channel,
) -> None:
    stub = rpc.HistoryServiceStub(channel)
    answer = await stub.GetLogHead(pb.GetLogHeadRequest(), metadata=_metadata())
    assert answer.log_id.startswith("user:alice 00-")
    assert await stub.GetLogHead(pb.GetLogHeadRequest(), metadata=_metadata()) is not None


@pytest.mark.parametrize(
    "metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", "Basic x"),)]
)
async def test_a_call_without_a_known_token_is_unauthenticated(
    channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc.HistoryServiceStub(channel).GetLogHead(pb.GetLogHeadRequest(), metadata=metadata)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"revoked_at": "2026-11-22T10:00:00+00:00"}, "TOKEN_REVOKED"),
        ({"expires_at": "2026-11-22T10:00:00+00:00"}, "TOKEN_EXPIRED"),
    ],
)
async def test_a_token_that_is_void_opens_nothing_and_ends_what_it_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, str], reason: str
) -> None:
    monkeypatch.setattr(open_streams, "LOOK_SECONDS", 0.01)
    async with _served(tmp_path) as channel:
        stub = rpc.HistoryServiceStub(channel)
        watching = stub.WatchEvents(pb.WatchEventsRequest(after_position=1), metadata=_metadata())
        assert await watching.read() == pb.WatchEventsResponse(bookmark_position=1)
        _write_tokens(tmp_path, **more)
        async with asyncio.timeout(20):
            assert await _reason(watching.read()) == reason
            assert await _reason(stub.GetLogHead(pb.GetLogHeadRequest(), metadata=_metadata())) == reason
        _write_tokens(tmp_path, expires_at="9999-11-22T10:00:00+00:00", revoked_at=None)
        await stub.GetLogHead(pb.GetLogHeadRequest(), metadata=_metadata())


async def test_a_tokens_file_that_says_nonsense_for_a_while_saves_no_void_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()
    monkeypatch.setattr(open_streams, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(open_streams, "log", Telling(lambda _: looked.set()))
    async with _served(tmp_path) as channel:
        stub = rpc.HistoryServiceStub(channel)
        watching = stub.WatchEvents(pb.WatchEventsRequest(after_position=1), metadata=_metadata())
        assert await watching.read() == pb.WatchEventsResponse(bookmark_position=1)
        assert not looked.is_set()
        (tmp_path / "tokens.json").write_text('{"tokens": 5}')
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.GetLogHead(pb.GetLogHeadRequest(), metadata=_metadata())
        assert failed.value.code() == grpc.StatusCode.INTERNAL
        async with asyncio.timeout(20):
            await looked.wait()
        _write_tokens(tmp_path, revoked_at="2026-11-22T10:00:00+00:00")
        async with asyncio.timeout(20):
            assert await _reason(watching.read()) == "TOKEN_REVOKED"


async def _reason(call: Awaitable[object]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    status, info = rpc_status.from_call(refused.value), error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    return str(info.reason)


def test_a_time_without_its_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks its zone"):
        Tokens(_write_tokens(tmp_path, expires_at="2026-11-22T10:00:00"))


async def test_health_needs_no_token(channel: grpc.aio.Channel) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_an_error_of_the_tree_carries_its_reason_and_field_violations(
    channel: grpc.aio.Channel,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc.HistoryServiceStub(channel).ListEvents(
            pb.ListEventsRequest(page_size=-1), metadata=_metadata()
        )
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(refused.value)
    assert status is not None
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("INVALID_INPUT", "runyard")
    assert bad.field_violations[0].field == "page_size"


async def test_an_unexpected_error_is_internal_and_hides_its_text(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc.HistoryServiceStub(channel).ListEvents(pb.ListEventsRequest(), metadata=_metadata())
    assert refused.value.code() == grpc.StatusCode.INTERNAL
    assert "a secret detail" not in str(refused.value.details())


async def test_a_stream_gives_its_items_and_then_its_error(channel: grpc.aio.Channel) -> None:
    call = rpc.HistoryServiceStub(channel).WatchEvents(pb.WatchEventsRequest(), metadata=_metadata())
    first = await call.read()
    assert isinstance(first, pb.WatchEventsResponse)
    assert first.bookmark_position == 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_client_may_leave_while_an_answer_is_sent(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    left.clear()
    endless = pb.WatchEventsRequest(after_position=ENDLESS)
    call = rpc.HistoryServiceStub(channel).WatchEvents(endless, metadata=_metadata())
    await call.read()
    await call.read()
    call.cancel()
    async with asyncio.timeout(20):
        await left.wait()
    # gRPC itself may say that the message it was sending came to nothing.
    assert [each.message for each in caplog.records if not each.name.startswith("grpc.")] == []


async def test_names_are_sealed_on_the_way_in_and_opened_for_clients_alone(tmp_path: Path) -> None:
    seen.clear()
    async with _served(tmp_path, _Edge()) as channel:
        stub = rpc.HistoryServiceStub(channel)
        answer = await stub.GetLogHead(pb.GetLogHeadRequest(), metadata=_metadata())
        assert answer.log_id.startswith("user:alice 00-")
        answer = await stub.GetLogHead(pb.GetLogHeadRequest(), metadata=_metadata(SERVICE_TOKEN))
        assert answer.log_id.startswith("user:ALICE 00-")
        assert seen == ["user:ALICE", "user:ALICE"]
        question = pb.ListEventsRequest(filter=pb.EventFilter(actor="bob"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListEvents(question, metadata=_metadata())
        assert refused.value.details() == "nobody is called bob"
