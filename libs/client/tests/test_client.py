from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from runyard.run.v1.scheduler_service_pb2 import (
    GetRunRequest,
    GetRunResponse,
    WatchRunsRequest,
    WatchRunsResponse,
)
from runyard.run.v1.types_pb2 import Run
from runyard_client import Client, ClientError, Context, Unreachable, load_context, save_context
from runyard_client.context import SERVICES, runyard_home
from runyard_client.errors import LocalError

Call = grpc.aio.ServicerContext[GetRunRequest, GetRunResponse]


class Server:
    """A gRPC server on loopback with the two methods that the tests need."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.deadlines: list[float] = []
        self.unavailable_count = 0
        self.pause_seconds: float | None = None
        self.asked_at: list[float] = []
        self.refusal: Status | None = None

    async def get_run(self, request: GetRunRequest, call: Call) -> GetRunResponse:
        metadata = cast("tuple[tuple[str, str], ...]", call.invocation_metadata() or ())
        self.seen.append(dict(metadata))
        self.deadlines.append(call.time_remaining() or 0)
        await self._be_away(call)
        await self._refuse(call)
        return GetRunResponse(run=Run(run_id=request.name))

    async def watch_runs(self, request: WatchRunsRequest, call: Call) -> AsyncIterator[WatchRunsResponse]:
        await self._be_away(call)
        yield WatchRunsResponse(bookmark_position=1)
        await self._refuse(call)
        yield WatchRunsResponse(bookmark_position=2)

    async def _be_away(self, call: Call) -> None:
        self.asked_at.append(asyncio.get_running_loop().time())
        if not self.unavailable_count:
            return
        self.unavailable_count -= 1
        if self.pause_seconds is not None:
            seconds, rest = divmod(self.pause_seconds, 1)
            delay = Duration(seconds=int(seconds), nanos=round(rest * 1e9))
            status = status_with(14, "starting", RetryInfo(retry_delay=delay))
            call.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        await call.abort(grpc.StatusCode.UNAVAILABLE, "starting")

    async def _refuse(self, call: Call) -> None:
        if self.refusal is not None:
            call.set_trailing_metadata((("grpc-status-details-bin", self.refusal.SerializeToString()),))
            await call.abort(grpc.StatusCode.NOT_FOUND, self.refusal.message)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, Context]]:
    handlers = Server()
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "GetRun": grpc.unary_unary_rpc_method_handler(
            handlers.get_run, GetRunRequest.FromString, GetRunResponse.SerializeToString
        ),
        "WatchRuns": grpc.unary_stream_rpc_method_handler(
            handlers.watch_runs, WatchRunsRequest.FromString, WatchRunsResponse.SerializeToString
        ),
    }
    running = grpc.aio.server()
    running.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("runyard.run.v1.SchedulerService", methods),)
    )
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    addresses = dict.fromkeys(SERVICES, f"127.0.0.1:{port}")
    yield handlers, Context(addresses=addresses, token="t0ken")
    await running.stop(None)


def status_with(code: int, message: str, *details: Message) -> Status:
    status = Status(code=code, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def refusal() -> Status:
    return status_with(
        5,
        "no run digits#9: the last is #3",
        ErrorInfo(reason="RUN_NOT_FOUND", domain="runyard", metadata={"name": "digits#9"}),
        BadRequest(field_violations=[BadRequest.FieldViolation(field="name", description="unknown")]),
    )


async def test_every_call_carries_token_and_deadline(server: tuple[Server, Context]) -> None:
    handlers, context = server
    async with Client.connect(context) as client:
        answer = await client.scheduler.GetRun(GetRunRequest(name="digits#1"))
    assert answer.run.run_id == "digits#1"
    assert handlers.seen[0]["authorization"] == "Bearer t0ken"
    assert 5 < handlers.deadlines[0] < 16


@pytest.mark.system
async def test_service_that_comes_back_is_called_again(server: tuple[Server, Context]) -> None:
    handlers, context = server
    handlers.unavailable_count = 2
    async with Client.connect(context) as client:
        await client.scheduler.GetRun(GetRunRequest(name="a"))
    assert len(handlers.seen) == 3


async def test_a_service_is_not_asked_again_before_it_said(server: tuple[Server, Context]) -> None:
    handlers, context = server
    handlers.unavailable_count, handlers.pause_seconds = 1, 0.4
    async with Client.connect(context) as client:
        await client.scheduler.GetRun(GetRunRequest(name="a"))
    first, second = handlers.asked_at
    assert 0.4 <= second - first < 5


async def test_a_service_that_asks_for_more_than_is_left_is_given_up(server: tuple[Server, Context]) -> None:
    handlers, context = server
    handlers.unavailable_count, handlers.pause_seconds = 1, 3600.0
    async with Client.connect(context) as client:
        with pytest.raises(Unreachable, match="starting") as caught:
            await client.scheduler.GetRun(GetRunRequest(name="a"))
        handlers.unavailable_count = 1
        with pytest.raises(Unreachable, match="starting"):
            await anext(aiter(client.scheduler.WatchRuns(WatchRunsRequest())))
    assert caught.value.retry_seconds == 3600
    assert len(handlers.asked_at) == 2


async def test_a_watch_of_a_service_that_comes_back_is_asked_for_again(
    server: tuple[Server, Context],
) -> None:
    handlers, context = server
    handlers.unavailable_count = 2
    async with Client.connect(context) as client:
        seen = [each.bookmark_position async for each in client.scheduler.WatchRuns(WatchRunsRequest())]
    assert seen == [1, 2]
    assert len(handlers.asked_at) == 3


async def test_refusal_keeps_reason_message_and_details(server: tuple[Server, Context]) -> None:
    handlers, context = server
    handlers.refusal = refusal()
    async with Client.connect(context) as client:
        with pytest.raises(ClientError) as caught:
            await client.scheduler.GetRun(GetRunRequest(name="digits#9"))
    error = caught.value
    assert (error.code, error.reason) == ("NOT_FOUND", "RUN_NOT_FOUND")
    assert error.message == "no run digits#9: the last is #3"
    assert error.metadata == {"name": "digits#9"}
    assert error.field_violations == {"name": "unknown"}
    assert not isinstance(error, Unreachable)


async def test_stream_gives_what_came_before_a_refusal(server: tuple[Server, Context]) -> None:
    handlers, context = server
    handlers.refusal = refusal()
    async with Client.connect(context) as client:
        stream = aiter(client.scheduler.WatchRuns(WatchRunsRequest()))
        assert (await anext(stream)).bookmark_position == 1
        with pytest.raises(ClientError, match="no run digits#9"):
            await anext(stream)


@pytest.mark.system
async def test_service_that_is_not_there_is_unreachable_and_named(server: tuple[Server, Context]) -> None:
    context = replace(server[1], addresses=dict.fromkeys(SERVICES, "127.0.0.1:1"))
    async with Client.connect(context) as client:
        with pytest.raises(Unreachable, match=r"scheduler at 127\.0\.0\.1:1 does not answer"):
            await client.scheduler.GetRun(GetRunRequest(name="a"))


def test_saved_context_is_read_back_and_is_only_the_owners(tmp_path: Path) -> None:
    context = Context(
        addresses={name: f"127.0.0.1:{port}" for port, name in enumerate(SERVICES, 1)}, token="s"
    )
    path = save_context(context, tmp_path / "home")
    assert load_context(tmp_path / "home") == context
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "token" not in repr(context)


def test_missing_context_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="`runyard up`") as caught:
        load_context(tmp_path)
    assert caught.value.reason == "NO_CONTEXT"


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"addresses": {}, "token": "x"}), "{}"])
def test_broken_context_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "context.json").write_text(content)
    with pytest.raises(LocalError) as caught:
        load_context(tmp_path)
    assert caught.value.reason == "BAD_CONTEXT"
    assert str(tmp_path) in caught.value.message


def test_home_is_chosen_by_the_environment(tmp_path: Path) -> None:
    assert runyard_home({"RUNYARD_HOME": str(tmp_path)}) == tmp_path
    assert runyard_home({}) == Path.home() / ".runyard"
