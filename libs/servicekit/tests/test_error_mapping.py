"""A refusal reaches its caller, however much of a request was wrong."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from runyard.history.v1 import history_service_pb2 as pb
from runyard.history.v1 import history_service_pb2_grpc as rpc
from runyard_core.errors import InvalidInput
from runyard_servicekit.error_mapping import reason_of
from runyard_servicekit.server import serving
from runyard_servicekit.settings import ServiceSettings

from .test_server import _metadata, _write_tokens

# What gRPC lets through of a status: of a little more it refuses some at random.
TRAILERS_BYTES_MAX = 8 * 1024


class _Refusing(rpc.HistoryServiceServicer):
    """Says of every request that as much of it is wrong as it asks for."""

    async def ListEvents(self, request: pb.ListEventsRequest, context: object) -> pb.ListEventsResponse:
        what, count = request.filter.stream, request.page_size
        raise InvalidInput(
            f"page_token: {what * count}",
            code="BAD_TOKEN",
            metadata={"token": what * count},
            field_violations={f"field[{number}]": what * 90 for number in range(1 + count // 90)},
        )


@pytest.mark.parametrize("what", ["x", "\N{SNOWMAN}"])
@pytest.mark.parametrize("count", [1, 100, 20_000])
async def test_a_refusal_of_any_size_reaches_its_caller(tmp_path: Path, what: str, count: int) -> None:
    settings = ServiceSettings(tokens_file=_write_tokens(tmp_path), stop_grace_seconds=0)
    register = lambda server: rpc.add_HistoryServiceServicer_to_server(_Refusing(), server)  # type: ignore[abstract]  # noqa: E731
    request = pb.ListEventsRequest(page_size=count, filter=pb.EventFilter(stream=what))
    async with (
        serving(settings, [], register) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rpc.HistoryServiceStub(channel).ListEvents(request, metadata=_metadata(), timeout=20)
    error = refused.value
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_TOKEN")
    assert str(error.details()).startswith(f"page_token: {what}")
    status = rpc_status.from_call(error)
    assert status is not None
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert bad.field_violations[0].field == "field[0]"
    sent = 3 * len(str(error.details()).encode()) + status.ByteSize() * 4 // 3
    assert sent < TRAILERS_BYTES_MAX
