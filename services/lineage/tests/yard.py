"""The lineage service on real engines, in this process, and the services that it asks for boxes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from pydantic import SecretStr

from runyard.artifact.v1 import artifact_service_pb2 as artifact_pb
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceServicer
from runyard.artifact.v1.artifact_service_pb2_grpc import (
    add_ArtifactServiceServicer_to_server as add_artifact,
)
from runyard.artifact.v1.events_pb2 import ArtifactWritten, CodeSnapshotRecorded
from runyard.artifact.v1.registry_events_pb2 import DatasetVersionCreated, ModelVersionRegistered
from runyard.artifact.v1.types_pb2 import Artifact
from runyard.cost.v1 import cost_service_pb2 as cost_pb
from runyard.cost.v1.cost_service_pb2_grpc import CostServiceServicer
from runyard.cost.v1.cost_service_pb2_grpc import add_CostServiceServicer_to_server as add_cost
from runyard.history.v1 import history_service_pb2 as history_pb
from runyard.metric.v1 import metric_service_pb2 as metric_pb
from runyard.metric.v1.metric_service_pb2_grpc import MetricServiceServicer
from runyard.metric.v1.metric_service_pb2_grpc import add_MetricServiceServicer_to_server as add_metrics
from runyard.run.v1 import scheduler_service_pb2 as scheduler_pb
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceServicer
from runyard.run.v1.scheduler_service_pb2_grpc import add_SchedulerServiceServicer_to_server as add_scheduler
from runyard.run.v1.types_pb2 import Run
from runyard_contracts.envelope import wrap
from runyard_contracts.ids import CommandId, StreamName, stream_name, uuid7
from runyard_engines import choose_port
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_lineage.main import main
from runyard_lineage.settings import LineageSettings
from runyard_servicekit.channels import service_channel
from runyard_testkit import Bus, Database

from .folding import ALICE, AT

TOKEN = "a-token-of-tests"
DEADLINE_SECONDS = 20
NOBODY = "127.0.0.1:9"


@asynccontextmanager
async def serving(
    database: Database, bus: Bus, folder: Path, peers: str = NOBODY
) -> AsyncIterator[grpc.aio.Channel]:
    """Run the service while the block runs; gives a channel to it."""
    tokens = folder / "tokens.json"
    entry = {
        "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "actor": "user:alice",
        "roles": ["client"],
    }
    tokens.write_text(json.dumps({"tokens": [entry]}))
    port = choose_port()
    settings = LineageSettings(
        listen=f"127.0.0.1:{port}",
        tokens_file=tokens,
        database_url=SecretStr(database.url("lineage")),
        nats_url=bus.url,
        nats_user="lineage",
        nats_password=SecretStr(bus.password("lineage")),
        service_token=SecretStr(TOKEN),
        scheduler_address=peers,
        artifact_address=peers,
        metrics_address=peers,
        cost_address=peers,
        stop_grace_seconds=0,
    )
    running = asyncio.create_task(main(settings))
    try:
        async with service_channel(f"127.0.0.1:{port}", TOKEN) as channel:
            await asyncio.wait_for(channel.channel_ready(), DEADLINE_SECONDS)
            yield channel
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def next_item(call: Any) -> history_pb.WatchEventsResponse:
    """The next item of a watch."""
    item = await asyncio.wait_for(call.read(), DEADLINE_SECONDS)
    assert isinstance(item, history_pb.WatchEventsResponse), "the watch has ended"
    return item


def _stream(message: Message) -> tuple[StreamName, str]:
    """The stream of an event, and the role that owns it."""
    if isinstance(message, ArtifactWritten):
        return stream_name("artifact", message.sha256), "artifact"
    if isinstance(message, CodeSnapshotRecorded):
        return stream_name("code", message.code.tree_sha256), "artifact"
    if isinstance(message, DatasetVersionCreated):
        return stream_name("dataset", f"{message.project}.{message.dataset}"), "artifact"
    if isinstance(message, ModelVersionRegistered):
        return stream_name("model", f"{message.project}.{message.model}"), "artifact"
    return stream_name("run", message.run_id), "scheduler"  # type: ignore[attr-defined]


async def append(database: Database, messages: Iterable[Message]) -> int:
    """Append events as the services that own their streams; gives the last position."""
    versions: dict[str, int] = {}
    position = 0
    async with (
        await PostgresEventLog.connect(database.url("scheduler"), connections_max=2) as scheduler,
        await PostgresEventLog.connect(database.url("artifact"), connections_max=2) as artifact,
    ):
        for message in messages:
            stream, role = _stream(message)
            event_log = scheduler if role == "scheduler" else artifact
            version = versions.get(stream) or len(await event_log.read_stream(stream))
            envelope = wrap(message, stream, ALICE, AT)
            command = AppendCommand(CommandId(uuid7()), [StreamAppend(stream, version, [envelope])])
            position = (await event_log.append(command)).position
            versions[stream] = version + 1
    return position


class KnownScheduler(SchedulerServiceServicer):
    """Knows one run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    async def GetRun(self, request: scheduler_pb.GetRunRequest, context: Any) -> scheduler_pb.GetRunResponse:
        if request.name != self.run.run_id:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no run {request.name}")
        return scheduler_pb.GetRunResponse(run=self.run, position=3)


TWO_OUTPUTS = (Artifact(name="a"), Artifact(name="b"))


class KnownArtifacts(ArtifactServiceServicer):
    """Outputs, in two pages."""

    def __init__(self, outputs: Sequence[Artifact]) -> None:
        self.outputs = outputs

    async def ListArtifacts(
        self, request: artifact_pb.ListArtifactsRequest, context: object
    ) -> artifact_pb.ListArtifactsResponse:
        half = len(self.outputs) // 2
        if not request.page_token:
            return artifact_pb.ListArtifactsResponse(artifacts=self.outputs[:half], next_page_token="2")
        return artifact_pb.ListArtifactsResponse(artifacts=self.outputs[half:])


class KnownCost(CostServiceServicer):
    """A price."""

    async def GetRunCost(
        self, request: cost_pb.GetRunCostRequest, context: object
    ) -> cost_pb.GetRunCostResponse:
        answer = cost_pb.GetRunCostResponse(position=3)
        answer.cost.micro_usd = 42
        return answer


class KnownMetrics(MetricServiceServicer):
    """Totals, one line and a mark."""

    def __init__(self, line_count: int, results: Sequence[metric_pb.MetricLatest]) -> None:
        self.line_count = line_count
        self.results = results

    async def GetRunSummary(
        self, request: metric_pb.GetRunSummaryRequest, context: object
    ) -> metric_pb.GetRunSummaryResponse:
        assert request.read.min_position == 3
        return metric_pb.GetRunSummaryResponse(
            attempt=1, log_line_count=self.line_count, log_bytes=9, metrics=self.results
        )

    async def ListLogLines(
        self, request: metric_pb.ListLogLinesRequest, context: object
    ) -> metric_pb.ListLogLinesResponse:
        return metric_pb.ListLogLinesResponse(lines=[metric_pb.LogLine(number=2, text="bye")])

    async def GetCommittedMark(
        self, request: metric_pb.GetCommittedMarkRequest, context: object
    ) -> metric_pb.GetCommittedMarkResponse:
        return metric_pb.GetCommittedMarkResponse(sequence=9)


@asynccontextmanager
async def knowing_peers(
    run: Run,
    *,
    line_count: int,
    with_cost: bool = True,
    outputs: Sequence[Artifact] = TWO_OUTPUTS,
    results: Sequence[metric_pb.MetricLatest] = (),
) -> AsyncIterator[str]:
    """Serve the four services that own the boxes, with answers known beforehand; gives their address."""
    server = grpc.aio.server()
    # What they leave out answers UNIMPLEMENTED.
    add_scheduler(KnownScheduler(run), server)  # type: ignore[abstract]
    add_artifact(KnownArtifacts(outputs), server)  # type: ignore[abstract]
    add_metrics(KnownMetrics(line_count, results), server)  # type: ignore[abstract]
    if with_cost:
        add_cost(KnownCost(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
