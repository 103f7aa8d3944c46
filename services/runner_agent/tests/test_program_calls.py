"""The calls of ``api.json``: a status line, and input files on demand, for a program with its token only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runyard.agent.v1.agent_service_pb2 import AttemptStarted, LeaseGrant
from runyard.run.v1.types_pb2 import Input
from runyard_agent import call_server, program_calls
from runyard_agent.attempt_store import AttemptRecord, AttemptStore
from runyard_agent.call_server import CallServer
from runyard_agent.domain.attempt import AttemptState
from runyard_agent.input_sources import InputRules, InputSources
from runyard_agent.program_calls import ProgramCalls
from runyard_core.clock import SystemClock

from .store_double import Yard, serving, sha256_of

pytestmark = pytest.mark.system

GRANT = LeaseGrant(run_id="0199-run", attempt=1, epoch=1, lease_id="lease-1", project="p")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class Program:
    """What the program of one attempt sees, and what becomes of its calls."""

    yard: Yard
    server: CallServer
    record: AttemptRecord
    calls: ProgramCalls
    url: str
    statuses: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    async def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        return await asyncio.to_thread(ask, f"{self.url}/{path}", body)


def ask(url: str, body: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    async with serving(tmp_path) as yard:
        sha256 = yard.catalogue.push("x/model.bin", b"weights" * 300_000)
        on_demand = Input(name="model", uris=[f"datum://{sha256}"], on_demand=True)
        on_demand.files.add(uri=on_demand.uris[0], path="model.bin", sha256=sha256)
        on_demand.files.add(uri=f"{yard.store.address}/gone", path="gone")
        record = AttemptStore(tmp_path / "attempts").create(GRANT, AttemptState())
        record.save_prepared(AttemptStarted(inputs=[on_demand, Input(name="other")]))

        def sources(_: object) -> InputSources:
            return InputSources(yard.client, yard.cache, InputRules(), SystemClock(), {})

        server = CallServer(tmp_path / "calls.port")
        statuses: list[str] = []
        told: list[str] = []
        node = cast("Any", SimpleNamespace(input_sources=sources))
        calls = ProgramCalls(
            server, node, record, statuses.append, lambda got: record.report_fetched(got, NOON), told.append
        )
        url = await server.url("127.0.0.1", record.call_token)
        yield Program(yard, server, record, calls, url, statuses, told)
        calls.close()
        await server.close()


async def test_a_status_line_is_reported_and_of_many_the_newest(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_calls, "_STATUS_SECONDS", 60.0)
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(program.calls.keep_reporting(ended))
        for number in range(20):
            body = json.dumps({"status_detail": f"epoch {number}"}).encode()
            assert await program.ask("status-detail", body) == (200, b"{}")
        program.calls.report_newest()
        ended.set()
    assert (program.statuses[0], program.statuses[-1]) == ("epoch 0", "epoch 19")
    assert len(program.statuses) == 2


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"status_detail": 5}', b"\xff"])
async def test_a_status_line_that_is_none_is_refused(program: Program, body: bytes) -> None:
    assert (await program.ask("status-detail", body))[0] == 400


async def test_an_input_on_demand_is_asked_for_and_handed_over(program: Program) -> None:
    [asked_id] = program.calls._on_demand
    status, body = await program.ask(f"inputs?inputs={asked_id}&inputs=nothing")
    assert status == 200
    [answer] = json.loads(body)
    first, second = answer["files"]
    assert (first["filename"], first["input_id"]) == ("model.bin", asked_id)
    for _ in range(2):
        status, content = await asyncio.to_thread(ask, first["url"])
        assert (status, sha256_of(content)) == (200, sha256_of(b"weights" * 300_000))
    assert len(program.yard.store.requests) == 1
    assert len(program.told) == 1
    assert "fetched on demand, SHA-256" in program.told[0]
    [report] = program.record.pending_reports()
    got = report.input_fetched
    assert (got.input, got.file.path, got.file.sha256) == (
        "model",
        "model.bin",
        sha256_of(b"weights" * 300_000),
    )
    status, content = await asyncio.to_thread(ask, second["url"])
    assert (status, b"404" in content) == (503, True)


async def test_what_was_fetched_before_the_agent_died_is_still_told_and_once(program: Program) -> None:
    [asked_id] = program.calls._on_demand
    program.record.on_demand_folder.mkdir()
    (program.record.on_demand_folder / f"{asked_id}-1").write_bytes(b"of its last life")
    assert (await program.ask(f"files/{asked_id}/1"))[1] == b"of its last life"
    [report] = program.record.pending_reports()
    assert report.input_fetched.file.sha256 == sha256_of(b"of its last life")
    assert report.input_fetched.file.size_bytes == 16
    assert program.record.acknowledge(report.report_id)
    await program.ask(f"files/{asked_id}/1")
    assert list(program.record.pending_reports()) == []


@pytest.mark.parametrize("path", ["", "files/x/0", "inputs/1", "../status-detail", "status-detail"])
async def test_other_calls_find_nothing(program: Program, path: str) -> None:
    assert (await program.ask(path))[0] == 404


async def test_nobody_gets_in_without_the_token_or_after_the_end(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runyard_agent.call_server._TOKEN_SECONDS_MAX", 0.05)
    wrong = program.url[:-1] + ("0" if program.url[-1] != "0" else "1")
    assert (await asyncio.to_thread(ask, f"{wrong}/status-detail", b"{}"))[0] == 404
    program.calls.close()
    assert (await program.ask("status-detail", b"{}"))[0] == 404


async def test_the_address_outlives_the_agent(program: Program, tmp_path: Path) -> None:
    await program.server.close()
    again = CallServer(tmp_path / "calls.port")
    assert await again.url("127.0.0.1", program.record.call_token) == program.url
    again.serve(program.record.call_token, program.calls)
    assert (await program.ask("status-detail", b'{"status_detail": "x"}'))[0] == 200
    await again.close()


@pytest.mark.parametrize(
    "sent",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"POST /x HTTP/1.1\r\nContent-Length: 999999\r\n\r\n", b"x" * 50_000],
)
async def test_what_is_no_request_is_hung_up_on(program: Program, sent: bytes) -> None:
    host, _, port = program.url.split("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


async def test_who_takes_nothing_more_is_hung_up_on(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_server, "_CHUNK_SECONDS_MAX", 0.05)
    [asked_id] = program.calls._on_demand
    program.record.on_demand_folder.mkdir()
    (program.record.on_demand_folder / f"{asked_id}-0").write_bytes(bytes(30_000_000))
    host, _, port = program.url.split("/")[2].partition(":")
    with socket.socket() as stopped:
        stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stopped.connect((host, int(port)))
        stopped.sendall(f"GET /{program.record.call_token}/files/{asked_id}/0 HTTP/1.1\r\n\r\n".encode())
        async with asyncio.timeout(20):
            while not served():  # noqa: ASYNC110 - nobody else knows
                await asyncio.sleep(0.01)
            while served():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def served() -> list[str]:
    """Give the connections that the server has not done with."""
    return [str(task) for task in asyncio.all_tasks() if "CallServer._connected" in str(task)]


def test_status_lines_are_reports_in_the_order_of_time_and_gone_when_acknowledged(tmp_path: Path) -> None:
    record = AttemptStore(tmp_path).create(GRANT, AttemptState())
    record.report_status("one", NOON)
    record.report(AttemptStarted(), NOON)
    record.report_status("two", NOON)
    facts = [report.status_detail or report.WhichOneof("fact") for report in record.pending_reports()]
    assert facts == ["started", "one", "two"]
    for report in list(record.pending_reports()):
        assert record.acknowledge(report.report_id)
    assert list(record.pending_reports()) == []
