"""A port that was chosen free may be taken before its process listens: the yard starts again with another."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from runyard_embedded import supervise
from runyard_embedded.home import Home
from runyard_embedded.plan import Plan
from runyard_embedded.readiness import answers, serves, until
from runyard_embedded.settings import YardSettings
from runyard_embedded.state import YardState
from runyard_engines import ChildProcess, PortInUse, ProcessSpec, choose_port
from runyard_engines.ports import require_free

SERVICE = """
import asyncio, sys
from runyard_servicekit.lifecycle import run_service
from runyard_servicekit.server import serving
from runyard_servicekit.settings import ServiceSettings

async def main(settings):
    async with serving(settings, [], lambda server: None):
        await asyncio.Event().wait()

sys.exit(run_service("cost", ServiceSettings, main))
"""


class Rival:
    """Takes the artifact service's port as soon as it is chosen, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.plans: list[Plan] = []
        self._held = ExitStack()

    def supervisor(self, plan: Plan, *_: Any) -> Rival:
        self.plans.append(plan)
        if len(self.plans) <= self.times:
            self._held.enter_context(socket.create_server(("127.0.0.1", self.port(plan))))
        return self

    async def run(self) -> None:
        require_free("artifact", [self.port(self.plans[-1])])

    @staticmethod
    def port(plan: Plan) -> int:
        return int(plan.addresses.services["artifact"].rpartition(":")[2])

    def leave(self) -> None:
        self._held.close()


@pytest.fixture
def rival(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rival]:
    rival = Rival(request.param)
    monkeypatch.setattr(supervise, "Supervisor", rival.supervisor)
    yield rival
    rival.leave()


def supervised(folder: Path) -> list[YardState]:
    published: list[YardState] = []
    supervise.supervise(Home(folder), YardSettings(), published.append)
    return published


@pytest.mark.parametrize("rival", [1, supervise.STARTS_MAX - 1], indirect=True)
def test_a_port_that_somebody_else_took_is_chosen_anew(rival: Rival, tmp_path: Path) -> None:
    assert not any(state.error for state in supervised(tmp_path / "yard"))
    ports = [rival.port(plan) for plan in rival.plans]
    assert len(set(ports)) == len(ports) == rival.times + 1


@pytest.mark.parametrize("rival", [supervise.STARTS_MAX], indirect=True)
def test_a_yard_whose_ports_are_taken_again_and_again_says_so(rival: Rival, tmp_path: Path) -> None:
    with pytest.raises(PortInUse, match="artifact cannot listen on"):
        supervised(tmp_path / "yard")


def test_a_fixed_port_that_is_taken_is_said_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", choose_port())) as held:
        settings = YardSettings(ports={"cost": held.getsockname()[1]})
        with pytest.raises(PortInUse, match="cost cannot listen on"):
            supervise.supervise(Home(tmp_path / "yard"), settings, lambda _: None)
    assert caplog.messages == []


@asynccontextmanager
async def a_service(folder: Path, port: int) -> AsyncIterator[ChildProcess]:
    tokens = folder / "tokens.json"
    tokens.write_text(json.dumps({"tokens": []}))
    environment = {
        "RUNYARD_LISTEN": f"127.0.0.1:{port}",
        "RUNYARD_INSTANCE": "ours",
        "RUNYARD_TOKENS_FILE": str(tokens),
    }
    argv = (sys.executable, "-c", SERVICE)
    process = ChildProcess.start(ProcessSpec("cost", argv, folder / "cost.log", environment))
    try:
        yield process
    finally:
        await process.stop()


@asynccontextmanager
async def a_stranger(port: int) -> AsyncIterator[None]:
    """Serve gRPC as a service of another yard does."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        yield
    finally:
        await server.stop(None)


@pytest.mark.system
async def test_a_service_is_ready_when_it_answers_itself(tmp_path: Path) -> None:
    port = choose_port()
    async with a_service(tmp_path, port) as process:
        await until(process, serves(port, "ours"), 30)
        assert not await answers(port, "theirs")


@pytest.mark.system
async def test_a_stranger_that_answers_on_a_services_port_is_not_taken_for_it(tmp_path: Path) -> None:
    port = choose_port()
    async with a_stranger(port), a_service(tmp_path, port) as process:
        assert await answers(port)
        with pytest.raises(PortInUse, match="cost did not start"):
            await until(process, serves(port, "ours"), 30)
