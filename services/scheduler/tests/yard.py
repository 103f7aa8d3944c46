"""A yard in one process for the tests of the scheduler: real gRPC on loopback, scripted agents."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from runyard.agent.v1 import agent_service_pb2 as agent_pb
from runyard.agent.v1.agent_service_pb2_grpc import (
    AgentServiceStub,
    add_AgentServiceServicer_to_server,
)
from runyard.node.v1.types_pb2 import GpuDevice, NodeInventory
from runyard.run.v1.scheduler_service_pb2 import StopRunRequest, SubmitRunRequest
from runyard.run.v1.types_pb2 import Cause, CauseCode, OutputFile, Resources, Run, RunSpec
from runyard_contracts.ids import RunId, deterministic_id, uuid7
from runyard_core.clock import ManualClock
from runyard_core.task_group import TaskGroup
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.memory import MemoryEventLog
from runyard_scheduler.agents import AgentServicer, FillSecrets
from runyard_scheduler.clock_watcher import ClockWatcher
from runyard_scheduler.handlers import Handlers
from runyard_scheduler.hands_on import HandsOn
from runyard_scheduler.hands_on_handlers import HandsOnHandlers
from runyard_scheduler.hands_on_servicer import register_hands_on
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.node_handlers import NodeHandlers
from runyard_scheduler.planner import Planner
from runyard_scheduler.process.deadlines import Limits
from runyard_scheduler.process.world import World
from runyard_scheduler.sessions import Sessions
from runyard_servicekit.server import serving
from runyard_servicekit.settings import ServiceSettings

WAIT_SECONDS = 20.0
AGENT_SERVICE = "runyard.agent.v1.AgentService"
CLIENT_TOKEN = "client-token"
SECRET_VALUE = "hunter2-and-more"


def a_spec(gpu_count: int = 0, **fields: object) -> RunSpec:
    spec = RunSpec(step="train", command_lines=["python train.py"], resources=Resources(gpu_count=gpu_count))
    for name, value in fields.items():
        setattr(spec, name, value)
    return spec


def a_submit(project: str = "digits", spec: RunSpec | None = None, **fields: object) -> SubmitRunRequest:
    request = SubmitRunRequest(request_id=uuid7(), project=project, spec=spec or a_spec())
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def an_inventory(gpu_count: int = 2, slot_count: int = 4, boot_id: str = "boot-1") -> NodeInventory:
    gpus = [GpuDevice(uuid=f"GPU-{index}", index=index, model="H200") for index in range(gpu_count)]
    return NodeInventory(hostname="host", boot_id=boot_id, gpus=gpus, slot_count=slot_count)


class ScriptedAgent:
    """An agent that says what the test says, over a real Attach stream."""

    def __init__(self, address: str, node_id: str, inventory: NodeInventory | None = None) -> None:
        self.node_id = node_id
        self.inventory = inventory or an_inventory()
        self._channel = grpc.aio.insecure_channel(address)
        metadata = (("authorization", f"Bearer agent-token-{node_id}"),)
        self.call = AgentServiceStub(self._channel).Attach(metadata=metadata)
        self._kept: list[agent_pb.AttachResponse] = []

    async def hello(self, held: Iterable[agent_pb.HeldAttempt] = ()) -> agent_pb.Welcome:
        hello = agent_pb.Hello(node_id=self.node_id, inventory=self.inventory, held_attempts=held)
        await self.call.write(agent_pb.AttachRequest(hello=hello))
        return (await self.receive("welcome")).welcome

    async def receive(self, kind: str) -> agent_pb.AttachResponse:
        """Wait for the next message of a kind; others are kept for later."""
        for index, message in enumerate(self._kept):
            if message.WhichOneof("message") == kind:
                return self._kept.pop(index)
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                received = await self.call.read()
                assert isinstance(received, agent_pb.AttachResponse), "the stream has ended"
                if received.WhichOneof("message") == kind:
                    return received
                self._kept.append(received)

    async def read_to_the_end(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.call.read() is not grpc.aio.EOF:
                pass

    def has(self, kind: str) -> bool:
        """Say whether a message of a kind has come and was not asked for."""
        return any(message.WhichOneof("message") == kind for message in self._kept)

    async def grant(self) -> agent_pb.LeaseGrant:
        return (await self.receive("lease_grant")).lease_grant

    async def renew(self, *held: agent_pb.HeldAttempt, sequence: int = 1) -> agent_pb.LeaseRenewed:
        renewal = agent_pb.LeaseRenewal(sequence=sequence, held_attempts=held)
        await self.call.write(agent_pb.AttachRequest(lease_renewal=renewal))
        return (await self.receive("lease_renewed")).lease_renewed

    async def report(self, report: agent_pb.AttemptReport) -> agent_pb.ReportAcknowledged:
        await self.call.write(agent_pb.AttachRequest(report=report))
        return (await self.receive("report_acknowledged")).report_acknowledged

    async def run_to_the_end(self, grant: agent_pb.LeaseGrant, exit_code: int = 0) -> None:
        for report in (started(grant), exited(grant, exit_code), finished(grant, exit_code)):
            answer = await self.report(report)
            assert answer.rejected_reason == ""

    async def close(self) -> None:
        self.call.cancel()
        await self._channel.close()


def held(grant: agent_pb.LeaseGrant) -> agent_pb.HeldAttempt:
    return agent_pb.HeldAttempt(
        run_id=grant.run_id, attempt=grant.attempt, epoch=grant.epoch, lease_id=grant.lease_id
    )


def a_report(grant: agent_pb.LeaseGrant, name: str) -> agent_pb.AttemptReport:
    report = agent_pb.AttemptReport(
        report_id=deterministic_id(grant.lease_id, name),
        run_id=grant.run_id,
        attempt=grant.attempt,
        epoch=grant.epoch,
    )
    report.occurred_at.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
    return report


def started(grant: agent_pb.LeaseGrant) -> agent_pb.AttemptReport:
    report = a_report(grant, "started")
    report.started.hardware.hostname = "host"
    return report


def a_cause(exit_code: int) -> Cause:
    code = CauseCode.CAUSE_CODE_USER_ERROR if exit_code else CauseCode.CAUSE_CODE_SUCCEEDED
    return Cause(code=code, exit_code=exit_code)


def exited(grant: agent_pb.LeaseGrant, exit_code: int = 0) -> agent_pb.AttemptReport:
    report = a_report(grant, "exited")
    report.exited.cause.CopyFrom(a_cause(exit_code))
    return report


def finished(grant: agent_pb.LeaseGrant, exit_code: int = 0) -> agent_pb.AttemptReport:
    report = a_report(grant, "finished")
    report.finished.cause.CopyFrom(a_cause(exit_code))
    report.finished.outputs.append(OutputFile(path="model.pt", sha256="a" * 64, size_bytes=1))
    report.finished.telemetry.last_sequence = 7
    return report


def write_tokens(path: Path, node_ids: Iterable[str] = ("node-1", "node-2")) -> Path:
    entries = [(CLIENT_TOKEN, "user:alice", ["client"]), ("service-token", "service:cost", ["service"])]
    entries += [(f"agent-token-{node_id}", f"agent:{node_id}", ["agent"]) for node_id in node_ids]
    tokens = [
        {"sha256": hashlib.sha256(token.encode()).hexdigest(), "actor": actor, "roles": roles}
        for token, actor, roles in entries
    ]
    path.write_text(json.dumps({"tokens": tokens}))
    return path


@dataclass
class MemoryYard:
    """The scheduler on the memory log, without a read model; its clock moves only when told."""

    ledger: Ledger
    sessions: Sessions
    handlers: Handlers
    nodes: NodeHandlers
    watcher: ClockWatcher
    planner: Planner
    clock: ManualClock
    hands_on: HandsOn
    address: str
    agents: list[ScriptedAgent] = field(default_factory=list)
    """All that were attached; they hang up with the yard."""

    async def submit(self, spec: RunSpec | None = None, project: str = "digits") -> Run:
        return (await self.handlers.submit(a_submit(project, spec))).run

    async def stop(self, run_id: str) -> Run:
        request = StopRunRequest(request_id=uuid7(), name=run_id, reason="enough")
        return (await self.handlers.stop(RunId(run_id), request)).run

    async def attach(
        self,
        node_id: str = "node-1",
        inventory: NodeInventory | None = None,
        held: Iterable[agent_pb.HeldAttempt] = (),
    ) -> ScriptedAgent:
        agent = ScriptedAgent(self.address, node_id, inventory)
        self.agents.append(agent)
        await agent.hello(held)
        return agent

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        while await self.watcher.record_due():
            pass

    async def types(self, run_id: str) -> list[str]:
        history = await self.ledger.history(run_id)
        return [event.type.removeprefix("runyard.run.") for event in history]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the world is so; every change of it is looked at."""
        changed = asyncio.Event()
        self.ledger.on_change(changed.set)
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await changed.wait()
                changed.clear()


@asynccontextmanager
async def memory_yard(
    tokens_file: Path,
    log: MemoryEventLog | None = None,
    idle_seconds: float = 60.0,
    fill_secrets: FillSecrets | None = None,
) -> AsyncIterator[MemoryYard]:
    doorbell = Doorbell()
    clock = ManualClock()
    ledger = Ledger(log or MemoryEventLog(), World(), doorbell)
    await ledger.catch_up()
    sessions = Sessions(ledger.world, clock, unreachable_seconds=10)
    leases = LeaseHandlers(ledger, clock, lease_milliseconds=60_000)
    nodes = NodeHandlers(ledger, clock)
    planner = Planner(ledger, sessions, leases, clock)
    watcher = ClockWatcher(sessions, leases, nodes, clock, Limits(10, 15))
    settings = ServiceSettings(tokens_file=tokens_file, stop_grace_seconds=0)
    async with TaskGroup() as tasks:
        agents = AgentServicer(ledger, sessions, leases, nodes, tasks, 2_000, fill_secrets)
        hands_on = HandsOn(ledger, sessions, HandsOnHandlers(ledger, clock, fill_grant), tasks, idle_seconds)
        hands_on.close_left_open()

        def register(server: grpc.aio.Server) -> None:
            add_AgentServiceServicer_to_server(agents, server)
            register_hands_on(server, hands_on, find_run, tasks)

        async with serving(settings, [AGENT_SERVICE], register) as port:
            planning = tasks.create_task(planner.run())
            made = MemoryYard(
                ledger,
                sessions,
                Handlers(ledger, clock),
                nodes,
                watcher,
                planner,
                clock,
                hands_on,
                f"127.0.0.1:{port}",
            )
            try:
                yield made
            finally:
                for agent in made.agents:
                    await agent.close()
            await hands_on.end_all()
            sessions.end_all()
        planning.cancel()


async def find_run(name: str) -> RunId:
    """Take a name for what it is: this yard has no read model to look names up in."""
    return RunId(name)


async def fill_grant(grant: agent_pb.LeaseGrant) -> None:
    """Give every project the one secret."""
    grant.secrets.add(name="TOKEN", value=SECRET_VALUE)
