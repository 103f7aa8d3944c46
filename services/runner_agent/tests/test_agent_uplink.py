"""The agent's side of the Attach stream, against a scheduler that comes and goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import grpc
import pytest

from runyard.agent.v1.agent_service_pb2 import (
    AttemptExited,
    AttemptReport,
    ForeignProcess,
    HeldAttempt,
    LeaseGrant,
    StopOrder,
)
from runyard.agent.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from runyard.node.v1.types_pb2 import NodeInventory
from runyard.run.v1.types_pb2 import CauseCode
from runyard_agent import uplink as uplink_module
from runyard_agent.uplink import Uplink

from .scripted_yard import NODE_ID, TOKEN, ScriptedScheduler

HELD = HeldAttempt(run_id="run", attempt=1, epoch=1, lease_id="lease-1")
REPORT = AttemptReport(report_id="report-1", run_id="run", attempt=1, epoch=1, exited=AttemptExited())


@dataclass
class FakeAttempts:
    """Keeps what the uplink says."""

    holds: list[HeldAttempt] = field(default_factory=lambda: [HELD])
    reports: list[AttemptReport] = field(default_factory=list)
    granted: list[LeaseGrant] = field(default_factory=list)
    expires_at: float = 0.0
    stopped: list[StopOrder] = field(default_factory=list)
    fenced: list[HeldAttempt] = field(default_factory=list)
    renewed: dict[str, float] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    made_at: float = field(default_factory=lambda: time.clock_gettime(time.CLOCK_BOOTTIME))

    def held(self) -> Sequence[HeldAttempt]:
        return self.holds

    def pending_reports(self) -> Sequence[AttemptReport]:
        return [report for report in self.reports if report.report_id not in self.acknowledged]

    async def grant(self, grant: LeaseGrant, expires_at_boottime_seconds: float) -> None:
        self.granted.append(grant)
        self.expires_at = expires_at_boottime_seconds

    def stop(self, order: StopOrder) -> None:
        self.stopped.append(order)

    def fence(self, fenced: HeldAttempt) -> None:
        self.fenced.append(fenced)

    def renew(self, lease_id: str, sent_at_boottime_seconds: float) -> None:
        self.renewed[lease_id] = sent_at_boottime_seconds

    def acknowledge(self, report_id: str, rejected_reason: str) -> None:
        self.acknowledged[report_id] = rejected_reason


class Wire:
    """A scheduler that can be ended and started again on its port."""

    def __init__(self) -> None:
        self.scheduler = ScriptedScheduler()
        self.port = 0
        self.server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.server = grpc.aio.server()
        add_AgentServiceServicer_to_server(self.scheduler, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def stop(self) -> None:
        assert self.server is not None
        await self.server.stop(0)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    wire = Wire()
    await wire.start()
    yield wire
    await wire.stop()


@pytest.fixture
def attempts() -> FakeAttempts:
    return FakeAttempts()


@pytest.fixture
async def uplink(wire: Wire, attempts: FakeAttempts) -> AsyncIterator[Uplink]:
    async def inventory() -> NodeInventory:
        return NodeInventory(hostname="h")

    uplink = Uplink(f"127.0.0.1:{wire.port}", TOKEN, NODE_ID, inventory, attempts)
    running = asyncio.ensure_future(uplink.run())
    yield uplink
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until(holds: object) -> None:
    async with asyncio.timeout(40):
        while not holds():  # type: ignore[operator] # noqa: ASYNC110 - the other side brings it about
            await asyncio.sleep(0.005)


async def test_hello_says_who_and_what_is_held(wire: Wire, uplink: Uplink, attempts: FakeAttempts) -> None:
    await wire.scheduler.wait_for(lambda: bool(wire.scheduler.hellos))

    (hello,) = wire.scheduler.hellos
    assert (hello.node_id, hello.inventory.hostname) == (NODE_ID, "h")
    assert list(hello.held_attempts) == [HELD]


async def test_report_is_sent_again_until_it_is_acknowledged(
    wire: Wire, uplink: Uplink, attempts: FakeAttempts
) -> None:
    wire.scheduler.acknowledges = False
    attempts.reports.append(REPORT)
    uplink.reports_changed()
    await wire.scheduler.wait_for(lambda: bool(wire.scheduler.reports))
    await wire.stop()
    wire.scheduler.reports.clear()
    wire.scheduler.acknowledges = True
    await wire.start()

    await until(lambda: attempts.acknowledged == {"report-1": ""})

    assert list(wire.scheduler.reports.values()) == [REPORT]


async def test_report_made_while_nobody_listened_is_sent_later(
    wire: Wire, uplink: Uplink, attempts: FakeAttempts
) -> None:
    await wire.scheduler.wait_for(lambda: bool(wire.scheduler.hellos))
    await wire.stop()
    attempts.reports.append(REPORT)
    uplink.reports_changed()

    await wire.start()

    await until(lambda: "report-1" in attempts.acknowledged)


async def test_lease_counts_from_before_its_renewal_was_sent(
    wire: Wire, uplink: Uplink, attempts: FakeAttempts
) -> None:
    await until(lambda: "lease-1" in attempts.renewed)
    after = time.clock_gettime(time.CLOCK_BOOTTIME)

    assert attempts.made_at < attempts.renewed["lease-1"] < after


async def test_unanswered_renewal_renews_nothing(wire: Wire, uplink: Uplink, attempts: FakeAttempts) -> None:
    wire.scheduler.renews = False
    await wire.scheduler.wait_for(lambda: wire.scheduler.held == [HELD])

    assert attempts.renewed == {}


async def test_grant_counts_from_the_last_answered_renewal(
    wire: Wire, uplink: Uplink, attempts: FakeAttempts
) -> None:
    await wire.scheduler.wait_for(lambda: bool(wire.scheduler.hellos))
    grant = wire.scheduler.grant("true")
    await until(lambda: bool(attempts.granted))

    assert attempts.granted == [grant]
    assert attempts.expires_at < time.clock_gettime(time.CLOCK_BOOTTIME) + grant.lease_milliseconds / 1000


async def test_stops_and_fences_are_passed_on(wire: Wire, uplink: Uplink, attempts: FakeAttempts) -> None:
    order = StopOrder(run_id="run", attempt=1, epoch=1, cause_code=CauseCode.CAUSE_CODE_STOPPED_BY_USER)
    wire.scheduler.fenced.append(HELD)
    wire.scheduler.stop(order)

    await until(lambda: attempts.fenced == [HELD] and attempts.stopped == [order])


@pytest.mark.system
async def test_scheduler_that_falls_silent_is_left_and_tried_again(
    wire: Wire, uplink: Uplink, attempts: FakeAttempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink_module, "_SILENT_SECONDS_MIN", 0.5)
    await wire.scheduler.wait_for(lambda: bool(wire.scheduler.hellos))
    wire.scheduler.is_silent = True

    await wire.scheduler.wait_for(lambda: len(wire.scheduler.hellos) > 1)


async def test_foreign_process_is_told_until_acknowledged(
    wire: Wire, uplink: Uplink, attempts: FakeAttempts
) -> None:
    process = ForeignProcess(report_id="foreign-1", gpu_uuid="GPU-1", pid=7)
    uplink.tell_foreign(process)

    await wire.scheduler.wait_for(lambda: wire.scheduler.foreign == [process])
    await until(lambda: uplink._foreign == {})


async def test_changed_machine_is_told(
    wire: Wire, attempts: FakeAttempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink_module, "_INVENTORY_SECONDS", 0.01)
    looks = iter(range(10**9))

    async def inventory() -> NodeInventory:
        look = next(looks)
        return NodeInventory(docker_version="28" if look > 3 else "", disk_free_bytes=look)

    running = asyncio.ensure_future(
        Uplink(f"127.0.0.1:{wire.port}", TOKEN, NODE_ID, inventory, attempts).run()
    )
    await wire.scheduler.wait_for(lambda: bool(wire.scheduler.inventories))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert [inventory.docker_version for inventory in wire.scheduler.inventories] == ["28"]
