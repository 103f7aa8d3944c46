"""What persons' clients say through the gate: to the yard that they entered, and to nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from runyard.access.v1.access_token_pb2 import AccessToken
from runyard.artifact.v1.types_pb2 import PresignedRequest
from runyard.history.v1.history_service_pb2 import GetLogHeadRequest, GetLogHeadResponse
from runyard_agent import connection_check
from runyard_agent.connection_check import check_connections
from runyard_agent.enrolled import Enrolled
from runyard_client import Client, ClientError, Context, Unreachable, load_context, save_context
from runyard_client.entering import enter
from runyard_client.errors import UnreachableElsewhere
from runyard_client.store import Store
from runyard_contracts import gate as names
from runyard_contracts.access_token import format_access_token
from runyard_contracts.pinned_gate import Gate as PinnedGate
from runyard_embedded.certificate import make_authority, renew
from runyard_embedded.gate import Gate
from runyard_engines import choose_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(30)]

Call = grpc.aio.ServicerContext[GetLogHeadRequest, GetLogHeadResponse]

BODY = b"weights" * 100_000


class History:
    """One method of a service; remembers which tokens it was shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def head(self, request: GetLogHeadRequest, context: Call) -> GetLogHeadResponse:
        received = context.invocation_metadata() or ()
        self.seen += [str(value) for key, value in received if key == "authorization"]
        return GetLogHeadResponse(domain_position=7)

    def handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "GetLogHead": grpc.unary_unary_rpc_method_handler(
                self.head, GetLogHeadRequest.FromString, GetLogHeadResponse.SerializeToString
            )
        }
        return grpc.method_handlers_generic_handler("runyard.history.v1.HistoryService", methods)


class Bucket(BaseHTTPRequestHandler):
    """A store of one object."""

    kept = b""

    def do_PUT(self) -> None:
        Bucket.kept = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.kept)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def store_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def a_certificate(folder: Path) -> bytes:
    """Make what a gate shows; give the SHA-256 of its authority."""
    folder.mkdir(exist_ok=True)
    now, authority, key = datetime.now(UTC), folder / "authority.crt", folder / "authority.key"
    make_authority(authority, key, now)
    renew(authority, key, folder / "gate.pem", now, force=True)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority.read_text())).digest()


@asynccontextmanager
async def a_yard(
    certificate: Path, history: History, store_port: int = 1, port: int = 0
) -> AsyncIterator[int]:
    """Give the port of a gate before a service and a store."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((history.handler(),))
    service_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    services = dict.fromkeys(names.NAMES, ("127.0.0.1", service_port))
    gate = Gate(services | {names.STORE: ("127.0.0.1", store_port)})
    loop, tls = asyncio.get_running_loop(), gate.tls(certificate)
    try:
        async with await loop.create_server(gate.accept, "127.0.0.1", port, ssl=tls) as listening:
            try:
                yield listening.sockets[0].getsockname()[1]
            finally:
                await gate.close()
    finally:
        await server.stop(None)


async def entered(port: int, authority_sha256: bytes) -> Context:
    token = AccessToken(address=f"127.0.0.1:{port}", certificate_sha256=authority_sha256, secret="s" * 43)
    return await asyncio.to_thread(enter, format_access_token(token))


async def ask(context: Context) -> int:
    async with Client.connect(context) as client:
        return (await client.history.GetLogHead(GetLogHeadRequest(), timeout=10)).domain_position


async def test_a_joined_yard_is_asked_through_its_gate(tmp_path: Path) -> None:
    sha256, history = a_certificate(tmp_path), History()
    async with a_yard(tmp_path / "gate.pem", history) as port:
        context = await entered(port, sha256)
        save_context(context, tmp_path / "home")
        assert load_context(tmp_path / "home") == context
        assert await ask(context) == 7
        # Another certificate of the same authority is the same yard.
        assert a_certificate(tmp_path) == sha256
        assert await ask(context) == 7
    assert history.seen == ["Bearer " + "s" * 43] * 2


async def test_a_token_of_the_environment_needs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = a_certificate(tmp_path)
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "nothing"))
    async with a_yard(tmp_path / "gate.pem", History()) as port:
        token = AccessToken(address="elsewhere:1", certificate_sha256=sha256, secret="s" * 43)
        environment = {
            "RUNYARD_TOKEN": format_access_token(token),
            "RUNYARD_SERVER": f"127.0.0.1:{port}",
        }
        context = await asyncio.to_thread(load_context, None, environment)
        assert await ask(context) == 7
    assert not (tmp_path / "nothing").exists()


async def test_an_impostor_in_the_yards_place_is_told_nothing(tmp_path: Path) -> None:
    sha256, impostor = a_certificate(tmp_path / "own"), History()
    async with a_yard(tmp_path / "own" / "gate.pem", History()) as port:
        context = await entered(port, sha256)
    a_certificate(tmp_path / "other")
    async with a_yard(tmp_path / "other" / "gate.pem", impostor, port=port):
        with pytest.raises(ClientError) as refused:
            await ask(context)
        assert (refused.value.reason, isinstance(refused.value, Unreachable)) == ("WRONG_CERTIFICATE", False)
        with pytest.raises(ClientError) as refused:
            await entered(port, sha256)
        assert refused.value.reason == "WRONG_CERTIFICATE"
    assert impostor.seen == []
    with pytest.raises(UnreachableElsewhere):
        await entered(port, sha256)


async def test_an_enrolled_machine_believes_no_impostor_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_certificate(tmp_path / "own")
    a_certificate(tmp_path / "other")
    authority = (tmp_path / "own" / "authority.crt").read_text()
    async with a_yard(tmp_path / "other" / "gate.pem", History()) as port:
        gate = PinnedGate(f"127.0.0.1:{port}", authority)
        enrolled = Enrolled("gpu-1", gate.address, "agent-gpu-1", "c" * 43, "b" * 43)
        found = await check_connections(enrolled, gate)
    assert [problem.partition(":")[0] for problem in found.values()] == ["WRONG_CERTIFICATE"] * 2
    # A problem without words is one all the same.
    monkeypatch.setattr(connection_check, "_CALL_SECONDS_MAX", 0.3)
    found = await check_connections(enrolled, PinnedGate("127.0.0.1:1", authority))
    assert all(found.values())


async def test_bytes_of_the_yards_own_store_go_through_the_gate(tmp_path: Path, store_port: int) -> None:
    sha256 = a_certificate(tmp_path)
    # Signed for the store's address beside the yard: here, nobody listens at it.
    url = f"http://127.0.0.1:{choose_port()}/blob"
    async with a_yard(tmp_path / "gate.pem", History(), store_port) as port:
        with Store((await entered(port, sha256)).gate) as store:
            await store.put(PresignedRequest(method="PUT", url=url), BODY)
            body_sha256 = hashlib.sha256(BODY).hexdigest()
            request = PresignedRequest(method="GET", url=url)
            await store.get(request, tmp_path / "fetched", sha256=body_sha256)
    assert (tmp_path / "fetched").read_bytes() == BODY
