"""A running embedded yard as tests see it: the command line, and raw gRPC stubs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grpc

from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard.artifact.v1.registry_service_pb2_grpc import RegistryServiceStub
from runyard.cost.v1.cost_service_pb2_grpc import CostServiceStub
from runyard.history.v1.history_service_pb2_grpc import HistoryServiceStub
from runyard.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from runyard.metric.v1.batches_pb2 import LogStream
from runyard.metric.v1.metric_service_pb2 import ListLogLinesRequest, WatchRunRequest
from runyard.metric.v1.metric_service_pb2_grpc import MetricServiceStub
from runyard.record.v1.record_service_pb2 import GetRecordRequest, Record
from runyard.record.v1.record_service_pb2_grpc import RecordServiceStub
from runyard.run.v1.scheduler_service_pb2 import (
    GetRunRequest,
    SubmitRunRequest,
    WatchRunsRequest,
    WatchRunsResponse,
)
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard.run.v1.secret_service_pb2_grpc import SecretServiceStub
from runyard.run.v1.types_pb2 import Run, RunSpec, RunState
from runyard_servicekit.channels import service_channel

TINY = Path(__file__).parent / "projects" / "tiny"
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Yard:
    """An embedded yard under its own home."""

    home: Path

    def cli(
        self, *arguments: str, folder: Path = TINY, timeout_seconds: float = 90, expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run `runyard` in a folder; fails when the exit code is not the expected one (None: any)."""
        done = subprocess.run(
            [sys.executable, "-m", "runyard_cli", *arguments],
            cwd=folder,
            env={**os.environ, "RUNYARD_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "100"},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if expect is not None and done.returncode != expect:
            command = " ".join(arguments)
            raise AssertionError(f"runyard {command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def share(self, environments: Path) -> None:
        """Let its agent take virtual environments from a folder of many; before the first start."""
        cache = self.home / "agent" / "cache"
        cache.mkdir(parents=True)
        (cache / "environments").symlink_to(environments)

    def up(self, *options: str) -> None:
        """Start it in the background and wait until it is ready."""
        self.cli("up", "--background", *options, timeout_seconds=120)

    def down(self) -> None:
        """Stop it."""
        self.cli("down", "--force", timeout_seconds=60)

    @cached_property
    def context(self) -> dict[str, dict[str, str]]:
        """Addresses and token, as any client reads them."""
        parsed: dict[str, dict[str, str]] = json.loads((self.home / "context.json").read_text())
        return parsed

    @cached_property
    def metadata(self) -> Metadata:
        """What every call needs."""
        return (("authorization", f"Bearer {self.context['token']}"),)

    def channel(self, service: str) -> grpc.aio.Channel:
        """Open a channel to a service; every call carries the token."""
        return service_channel(self.context["addresses"][service], str(self.context["token"]))


class Clients:
    """Raw stubs of all services over channels that live as long as the block."""

    def __init__(self, yard: Yard) -> None:
        """Open the channels on entering the block."""
        self.yard = yard

    async def __aenter__(self) -> Clients:
        names = ("scheduler", "artifact", "metrics", "cost", "lineage")
        self._channels = {name: self.yard.channel(name) for name in names}
        self.scheduler = SchedulerServiceStub(self._channels["scheduler"])
        self.secrets = SecretServiceStub(self._channels["scheduler"])
        self.artifacts = ArtifactServiceStub(self._channels["artifact"])
        self.registry = RegistryServiceStub(self._channels["artifact"])
        self.metrics = MetricServiceStub(self._channels["metrics"])
        self.costs = CostServiceStub(self._channels["cost"])
        self.lineage = LineageServiceStub(self._channels["lineage"])
        self.records = RecordServiceStub(self._channels["lineage"])
        self.history = HistoryServiceStub(self._channels["lineage"])
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def submit(self, spec: RunSpec, project: str = "e2e") -> Run:
        """Queue a run; gives it once the read model shows it."""
        request = SubmitRunRequest(request_id=str(uuid.uuid4()), project=project, spec=spec)
        answer = await self.scheduler.SubmitRun(request, timeout=20)
        return await self.shown(answer.run.run_id, answer.position)

    async def shown(self, run_id: str, position: int) -> Run:
        """Give a run once the read model shows a position."""
        request = GetRunRequest(name=run_id)
        request.read.min_position = position
        return (await self.scheduler.GetRun(request, timeout=20)).run

    async def reached(self, name: str, state: RunState.ValueType, timeout_seconds: float = 60) -> Run:
        """Wait for a state of a run by following its events, over restarts of the scheduler too."""
        async with asyncio.timeout(timeout_seconds):
            while True:
                try:
                    return await self._reached(name, state)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await self._channels["scheduler"].channel_ready()

    async def finished(self, name: str, timeout_seconds: float = 60) -> Run:
        """Wait until a run is over."""
        return await self.reached(name, RunState.RUN_STATE_FINISHED, timeout_seconds)

    async def complete_record(self, name: str, timeout_seconds: float = 60) -> Record:
        """Wait until a run is over and the log has all its telemetry; give its record."""
        run = await self.finished(name, timeout_seconds)
        async with asyncio.timeout(timeout_seconds):
            await self._completed(run.run_id)
        answer = await self.records.GetRecord(GetRecordRequest(name=run.run_id), timeout=20)
        return answer.record

    async def lines(
        self, run_id: str, stream: LogStream.ValueType = LogStream.LOG_STREAM_STDOUT
    ) -> list[str]:
        """Give every log line of one stream of a run's last attempt."""
        lines: list[str] = []
        token = ""
        while True:
            request = ListLogLinesRequest(run_id=run_id, page_size=1000, page_token=token)
            page = await self.metrics.ListLogLines(request, timeout=20)
            lines += [line.text for line in page.lines if line.stream == stream]
            token = page.next_page_token
            if not token:
                return lines

    async def _reached(self, name: str, state: RunState.ValueType) -> Run:
        request = GetRunRequest(name=name)
        answer = await self.scheduler.GetRun(request, timeout=20, wait_for_ready=True)
        watch = self.scheduler.WatchRuns(
            WatchRunsRequest(after_position=answer.position, name=answer.run.run_id)
        )
        try:
            while answer.run.state < state:
                item: WatchRunsResponse = await anext(aiter(watch))
                if item.WhichOneof("item") != "event":
                    continue
                request = GetRunRequest(name=answer.run.run_id)
                request.read.min_position = item.event.position
                answer = await self.scheduler.GetRun(request, timeout=20)
        finally:
            watch.cancel()
        return answer.run

    async def _completed(self, run_id: str) -> None:
        """Follow a finished run until the log has all its telemetry, over restarts of metrics too."""
        while True:
            try:
                call = self.metrics.WatchRun(WatchRunRequest(run_id=run_id), wait_for_ready=True)
                async for item in call:
                    if item.WhichOneof("item") == "complete":
                        return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
