"""The metrics service as a process of its own on real engines, an agent's spool, and a scheduler's events."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard.metric.v1 import metric_service_pb2 as pb
from runyard.metric.v1.batches_pb2 import AttemptRef, LogChunkRecorded, LogStream, MetricPointsRecorded
from runyard.metric.v1.metric_service_pb2_grpc import MetricServiceStub
from runyard.run.v1.events_pb2 import RunFinished, RunLeaseGranted, RunQueued
from runyard.run.v1.types_pb2 import TelemetryMark
from runyard_contracts import subjects
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_engines.ports import choose_port
from runyard_eventlog.port import AppendCommand, Appended, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_metrics.domain.spools import SpoolKey
from runyard_servicekit.channels import service_channel
from runyard_testkit import Bus, Database

from .sent_events import AT, envelope_of

TOKEN = "a-token-of-tests"
DEADLINE_SECONDS = 20


@dataclass
class Service:
    """``python -m runyard_metrics``, which may be killed and started again."""

    database: Database
    bus: Bus
    folder: Path
    port: int = field(default_factory=choose_port)
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it is healthy."""
        tokens = self.folder / "tokens.json"
        entry = {
            "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
            "actor": "service:tests",
            "roles": ["client", "service", "agent"],
        }
        tokens.write_text(json.dumps({"tokens": [entry]}))
        environment = {
            "RUNYARD_LISTEN": f"127.0.0.1:{self.port}",
            "RUNYARD_TOKENS_FILE": str(tokens),
            "RUNYARD_DATABASE_URL": self.database.url("metrics"),
            "RUNYARD_NATS_URL": self.bus.url,
            "RUNYARD_NATS_USER": "metrics",
            "RUNYARD_NATS_PASSWORD": self.bus.password("metrics"),
        }
        with (self.folder / "metrics.log").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "runyard_metrics", env=environment, stderr=output
            )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            check = health_pb2_grpc.HealthStub(channel)
            answer = await check.Check(
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=DEADLINE_SECONDS
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Ask it to end; gives its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), DEADLINE_SECONDS)

    def log_text(self) -> str:
        """What it logged."""
        return (self.folder / "metrics.log").read_text()


@asynccontextmanager
async def serving(
    database: Database, bus: Bus, folder: Path
) -> AsyncIterator[tuple[Service, MetricServiceStub]]:
    """Run the service while the block runs."""
    service = Service(database, bus, folder)
    await service.start()
    channel = service_channel(f"127.0.0.1:{service.port}", TOKEN)
    try:
        yield service, MetricServiceStub(channel)
    finally:
        await channel.close()
        assert await service.stop() in (0, -9), service.log_text()


class AgentSpool:
    """A spool as an agent keeps it: sends beyond the committed mark, again when that stands still."""

    def __init__(self, bus: Bus, spool: SpoolKey = SpoolKey("node-1", "s1")) -> None:
        self._bus = bus
        self.key = spool
        self.records: list[bytes] = []
        self.mark = 0
        self._moved = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._client = await self._bus.connect(
            f"agent-{self.key.node_id}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            error_cb=_ignored,
        )
        await self._client.subscribe(subjects.committed_subject(self.key.node_id), cb=self._hear)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def _hear(self, message: object) -> None:
        mark = json.loads(message.data)  # type: ignore[attr-defined]
        if mark["spool_id"] == self.key.spool_id:
            self.mark = max(self.mark, mark["sequence"])
            self._moved.set()

    def add(self, *batches: Message) -> None:
        """Spool batches."""
        for batch in batches:
            envelope = envelope_of(batch, len(self.records) + 1, self.key)
            self.records.append(envelope.SerializeToString())

    async def send(self, sequence: int) -> None:
        """Publish one record, without waiting for anybody."""
        headers = {"Nats-Msg-Id": f"{self.key.stream}.{sequence}"}
        await self._client.publish(
            subjects.telemetry_subject(self.key.node_id, "batch"),
            self.records[sequence - 1],
            headers=headers,
        )

    async def send_all(self, *, order: Callable[[list[int]], Sequence[int]] = list) -> None:
        """Send until the mark covers every record."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.mark < len(self.records):
                missing = list(range(self.mark + 1, len(self.records) + 1))
                self._moved.clear()
                try:
                    for sequence in order(missing):
                        await self.send(sequence)
                except (NatsError, APIError, OSError):
                    # The bus is away: what stands still is sent again.
                    self._moved.clear()
                await self._until_still()

    async def _until_still(self) -> None:
        while self.mark < len(self.records):
            try:
                await asyncio.wait_for(self._moved.wait(), 0.5)
            except TimeoutError:
                return
            self._moved.clear()


async def _ignored(_: Exception) -> None:
    """A killed server is the point of these tests."""


class Scheduler:
    """Appends the scheduler's events of one run."""

    def __init__(self, event_log: PostgresEventLog, run_id: str) -> None:
        self._event_log = event_log
        self._stream = stream_name("run", run_id)
        self._version = 0
        self.run_id = run_id

    async def append(self, *messages: Message) -> Appended:
        context = Context(Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"), "c", "/scheduler")
        events = [wrap(message, self._stream, context, AT) for message in messages]
        append = StreamAppend(self._stream, self._version, events)
        answer = await self._event_log.append(AppendCommand(CommandId(uuid7()), [append]))
        self._version += len(events)
        return answer

    async def started(self, attempt: int = 1) -> Appended:
        messages: list[Message] = [RunLeaseGranted(run_id=self.run_id, attempt=attempt)]
        return await self.append(*([RunQueued(run_id=self.run_id)] if attempt == 1 else []), *messages)

    async def finished(self, spool: AgentSpool | None) -> Appended:
        mark = TelemetryMark()
        if spool is not None:
            mark = TelemetryMark(
                node_id=spool.key.node_id, spool_id=spool.key.spool_id, last_sequence=len(spool.records)
            )
        return await self.append(RunFinished(run_id=self.run_id, attempt=1, telemetry=mark))


async def next_item(call: Any) -> pb.WatchRunResponse:
    """The next item of a watch that is no bookmark."""
    while True:
        item = await asyncio.wait_for(call.read(), DEADLINE_SECONDS)
        assert isinstance(item, pb.WatchRunResponse), "the watch has ended"
        if item.WhichOneof("item") != "bookmark_position":
            return item


@asynccontextmanager
async def scheduling(database: Database, run_id: str) -> AsyncIterator[Scheduler]:
    """Open the log as the scheduler."""
    async with await PostgresEventLog.connect(database.url("scheduler"), connections_max=3) as event_log:
        yield Scheduler(event_log, run_id)


def log_chunk(
    run_id: str, first: int, count: int, *, attempt: int = 1, text: str = "line"
) -> LogChunkRecorded:
    """Lines "line 1", "line 2", ..."""
    return LogChunkRecorded(
        attempt=AttemptRef(run_id=run_id, attempt=attempt),
        first_line_number=first,
        lines=[f"{text} {number}" for number in range(first, first + count)],
        streams=[LogStream.LOG_STREAM_STDOUT] * count,
        times_unix_milliseconds=range(first, first + count),
    )


def loss_points(run_id: str, first: int, values: Sequence[float]) -> MetricPointsRecorded:
    """Points of one metric, one a line."""
    return MetricPointsRecorded(
        attempt=AttemptRef(run_id=run_id, attempt=1),
        names=["loss"],
        name_indices=[0] * len(values),
        times_unix_milliseconds=range(first, first + len(values)),
        line_numbers=range(first, first + len(values)),
        values=values,
    )


def named_points(run_id: str, names: Sequence[str]) -> MetricPointsRecorded:
    """A point of each of many metrics, one a line."""
    return MetricPointsRecorded(
        attempt=AttemptRef(run_id=run_id, attempt=1),
        names=names,
        name_indices=range(len(names)),
        times_unix_milliseconds=range(len(names)),
        line_numbers=range(1, len(names) + 1),
        values=range(len(names)),
    )
