"""A yard around one agent: scripted scheduler and artifact service on real gRPC, and the agent itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from runyard.agent.v1.agent_service_pb2 import (
    AttachRequest,
    AttachResponse,
    AttemptReport,
    Distributed,
    ForeignProcess,
    HeldAttempt,
    Hello,
    LeaseGrant,
    LeaseRenewed,
    ReportAcknowledged,
    StopOrder,
    Welcome,
)
from runyard.agent.v1.agent_service_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from runyard.artifact.v1.artifact_service_pb2 import (
    BeginUploadRequest,
    BeginUploadResponse,
    BeginUploadsRequest,
    BeginUploadsResponse,
    CommitUploadRequest,
    CommitUploadResponse,
    CommitUploadsRequest,
    CommitUploadsResponse,
    FindMissingBlobsRequest,
    FindMissingBlobsResponse,
    ResolveInputsRequest,
    ResolveInputsResponse,
)
from runyard.artifact.v1.artifact_service_pb2_grpc import (
    ArtifactServiceServicer,
    add_ArtifactServiceServicer_to_server,
)
from runyard.artifact.v1.registry_service_pb2 import DescribeOutputsRequest, DescribeOutputsResponse
from runyard.artifact.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from runyard.artifact.v1.types_pb2 import Origin, PresignedRequest
from runyard.node.v1.types_pb2 import NodeInventory
from runyard.run.v1.types_pb2 import Executor, RunSpec
from runyard_contracts.ids import uuid7

from .scripted_ledger import Ledger

NODE_ID = "node-1"
TOKEN = "token-of-node-1"
HEARTBEAT_MILLISECONDS = 200
Context = grpc.aio.ServicerContext[AsyncIterator[AttachRequest], AsyncIterator[AttachResponse]]


class ScriptedScheduler(AgentServiceServicer):
    """Grants what the test says, acknowledges what it hears."""

    def __init__(self) -> None:
        self.hellos: list[Hello] = []
        self.grants: dict[str, LeaseGrant] = {}
        self.stops: list[StopOrder] = []
        self.fenced: list[HeldAttempt] = []
        self.reports: dict[str, AttemptReport] = {}
        self.acknowledges = True
        self.renews = True
        self.renewal_count = 0
        self.is_silent = False
        self.foreign: list[ForeignProcess] = []
        self.inventories: list[NodeInventory] = []
        self.news = asyncio.Condition()
        self._to_send: asyncio.Queue[AttachResponse] = asyncio.Queue()
        self.held: list[HeldAttempt] = []

    async def Attach(
        self, request_iterator: AsyncIterator[AttachRequest], context: Context
    ) -> AsyncIterator[AttachResponse]:
        assert dict(context.invocation_metadata() or ())["authorization"] == f"Bearer {TOKEN}"
        to_send: asyncio.Queue[AttachResponse] = asyncio.Queue()
        self._to_send = to_send
        listening = asyncio.ensure_future(self._listen(request_iterator, to_send))
        sending = asyncio.ensure_future(to_send.get())
        try:
            while True:
                await asyncio.wait([sending, listening], return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    return
                yield sending.result()
                sending = asyncio.ensure_future(to_send.get())
        finally:
            sending.cancel()
            listening.cancel()

    async def _listen(
        self, requests: AsyncIterator[AttachRequest], to_send: asyncio.Queue[AttachResponse]
    ) -> None:
        async for request in requests:
            async with self.news:
                self._take(request, to_send)
                self.news.notify_all()

    def _take(self, request: AttachRequest, to_send: asyncio.Queue[AttachResponse]) -> None:
        match request.WhichOneof("message"):
            case "hello":
                self.hellos.append(request.hello)
                self.held = list(request.hello.held_attempts)
                welcome = Welcome(heartbeat_milliseconds=HEARTBEAT_MILLISECONDS, fenced_attempts=self.fenced)
                to_send.put_nowait(AttachResponse(welcome=welcome))
                held = {one.lease_id for one in self.held if not one.lacks_login}
                for grant in self.grants.values():
                    if grant.lease_id not in held and not self.is_finished(grant):
                        to_send.put_nowait(AttachResponse(lease_grant=grant))
                for stop in self.stops:
                    to_send.put_nowait(AttachResponse(stop_order=stop))
            case "lease_renewal" if self.is_silent:
                pass
            case "lease_renewal":
                self.renewal_count += 1
                self.held = list(request.lease_renewal.held_attempts)
                leases = [one.lease_id for one in self.held] if self.renews else []
                renewed = LeaseRenewed(sequence=request.lease_renewal.sequence, lease_ids=leases)
                to_send.put_nowait(AttachResponse(lease_renewed=renewed))
            case "report":
                report = request.report
                known = self.reports.setdefault(report.report_id, report)
                assert known == report, "a report came again with other content"
                if self.acknowledges:
                    acknowledged = ReportAcknowledged(report_id=report.report_id)
                    to_send.put_nowait(AttachResponse(report_acknowledged=acknowledged))
            case "foreign_process":
                self.foreign.append(request.foreign_process)
                acknowledged = ReportAcknowledged(report_id=request.foreign_process.report_id)
                to_send.put_nowait(AttachResponse(report_acknowledged=acknowledged))
            case "inventory":
                self.inventories.append(request.inventory)
            case None:
                pass

    def is_finished(self, grant: LeaseGrant) -> bool:
        return any(self.of(grant, "finished"))

    def of(self, grant: LeaseGrant, fact: str) -> Iterable[AttemptReport]:
        return (
            report
            for report in self.reports.values()
            if report.run_id == grant.run_id and report.WhichOneof("fact") == fact
        )

    def grant(
        self,
        *command_lines: str,
        lease_milliseconds: int = 10_000,
        gpu_uuids: Iterable[str] = (),
        distributed: Distributed | None = None,
        **spec: object,
    ) -> LeaseGrant:
        grant = LeaseGrant(
            run_id=uuid7(),
            project="test",
            number=len(self.grants) + 1,
            attempt=1,
            epoch=1,
            lease_id=uuid7(),
            lease_milliseconds=lease_milliseconds,
            gpu_uuids=gpu_uuids,
            spec=RunSpec(
                step="train",
                command_lines=command_lines,
                executor=Executor.EXECUTOR_PROCESS,
                stop_grace_seconds=1,
            ),
            correlation_id=uuid7(),
            traceparent="00-11111111111111111111111111111111-2222222222222222-01",
            submitted_by="user:test",
            distributed=distributed,
        )
        grant.spec.MergeFrom(RunSpec(**spec))  # type: ignore[arg-type]
        self.grants[grant.run_id] = grant
        self._to_send.put_nowait(AttachResponse(lease_grant=grant))
        return grant

    def stop(self, order: StopOrder) -> None:
        self.stops.append(order)
        self._to_send.put_nowait(AttachResponse(stop_order=order))

    async def wait_for(self, holds: Callable[[], bool], seconds: float = 40) -> None:
        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(holds)

    async def renewals(self, count: int) -> None:
        """Wait for so many more; what was reported before them has come, and each is a heartbeat later."""
        last = self.renewal_count + count
        await self.wait_for(lambda: self.renewal_count >= last)

    async def report(self, grant: LeaseGrant, fact: str, seconds: float = 40) -> AttemptReport:
        await self.wait_for(lambda: any(self.of(grant, fact)), seconds)
        return next(iter(self.of(grant, fact)))


ArtifactContext = grpc.aio.ServicerContext[ResolveInputsRequest, Awaitable[ResolveInputsResponse]]


class ScriptedArtifacts(ArtifactServiceServicer, RegistryServiceServicer):
    """Says that it has every file's bytes, and keeps what was committed and said of it."""

    def __init__(self) -> None:
        self.committed: list[Origin] = []
        self.described: list[DescribeOutputsRequest] = []
        self.asked_blobs: list[str] = []
        self.is_slow = False

    async def ResolveInputs(
        self, request: ResolveInputsRequest, context: ArtifactContext
    ) -> ResolveInputsResponse:
        if self.is_slow:
            await asyncio.sleep(3600)
        await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such file")

    async def FindMissingBlobs(
        self, request: FindMissingBlobsRequest, context: object
    ) -> FindMissingBlobsResponse:
        self.asked_blobs += [blob.sha256 for blob in request.blobs]
        return FindMissingBlobsResponse()

    async def BeginUpload(self, request: BeginUploadRequest, context: object) -> BeginUploadResponse:
        return BeginUploadResponse(already_stored=True)

    async def CommitUpload(self, request: CommitUploadRequest, context: object) -> CommitUploadResponse:
        self.committed.append(request.origin)
        return CommitUploadResponse()

    async def BeginUploads(self, request: BeginUploadsRequest, context: object) -> BeginUploadsResponse:
        return BeginUploadsResponse(puts=[PresignedRequest() for _ in request.files])

    async def CommitUploads(self, request: CommitUploadsRequest, context: object) -> CommitUploadsResponse:
        for file in request.files:
            origin = Origin(path=file.path)
            origin.MergeFrom(request.origin)
            self.committed.append(origin)
        return CommitUploadsResponse(refusals=[""] * len(request.files))

    async def DescribeOutputs(
        self, request: DescribeOutputsRequest, context: object
    ) -> DescribeOutputsResponse:
        self.described.append(request)
        return DescribeOutputsResponse()


@dataclass
class AgentProcess:
    """The agent as a process of its own, as it is run in production."""

    directory: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        log = (self.directory.parent / "agent.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runyard_agent"], env=self.environment, stdout=log, stderr=log
        )
        log.close()

    def kill(self) -> None:
        """End it as a power cut would, for it alone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=40)

    @property
    def log(self) -> str:
        return (self.directory.parent / "agent.log").read_text(encoding="utf-8")


@dataclass
class ScriptedYard:
    """Everything around one agent."""

    scheduler: ScriptedScheduler
    artifacts: ScriptedArtifacts
    ledger: Ledger
    agent: AgentProcess

    async def finished(self, grant: LeaseGrant, seconds: float = 40) -> AttemptReport:
        """Wait for the last report and for all telemetry that it promises."""
        report = await self.scheduler.report(grant, "finished", seconds)
        mark = report.finished.telemetry
        await self.ledger.wait_for(mark.spool_id, mark.last_sequence, seconds)
        return report


async def serve(scheduler: ScriptedScheduler, artifacts: ScriptedArtifacts) -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    add_AgentServiceServicer_to_server(scheduler, server)
    add_ArtifactServiceServicer_to_server(artifacts, server)
    add_RegistryServiceServicer_to_server(artifacts, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


def agent_environment(directory: Path, address: str, nats_url: str, password: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "RUNYARD_NODE_ID": NODE_ID,
        "RUNYARD_AGENT_TOKEN": TOKEN,
        "RUNYARD_AGENT_DIR": str(directory),
        "RUNYARD_SCHEDULER_ADDRESS": address,
        "RUNYARD_ARTIFACT_ADDRESS": address,
        "RUNYARD_NATS_URL": nats_url,
        "RUNYARD_NATS_USER": f"agent-{NODE_ID}",
        "RUNYARD_NATS_PASSWORD": password,
        "RUNYARD_SLOT_COUNT": "2",
        "RUNYARD_LOG_LEVEL": "DEBUG",
    }
