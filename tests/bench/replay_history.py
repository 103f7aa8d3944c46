"""A long history for the benchmarks of replay: runs of ten events each, written to the log's tables by COPY.

The appender would take ten times as long for a million events; what it writes is the same (the rows go
through the log's own constraints, and the benchmarks read them as any others).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import asyncpg
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.types_pb2 import Origin
from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.node.v1.types_pb2 import GpuDevice
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import (
    Cause,
    CauseCode,
    CodeRef,
    Environment,
    Executor,
    Hardware,
    Input,
    InputFile,
    Outcome,
    OutputFile,
    Package,
    ParameterValue,
    Resources,
    RunSpec,
)
from runyard_contracts.envelope import Context, actor_name, parse_actor, wrap
from runyard_contracts.ids import StreamName, sha256_of, stream_name, uuid7

EVENTS_A_RUN = 10
RUNS_AT_ONCE = 50
NODES = 20
ENVIRONMENTS = 10
_BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
_BATCH = 64
"""Events that the log recorded at one instant."""
_COPIED = 20_000
_COLUMNS = (
    *("lane", "position", "version", "after_position", "recorded_at", "event_id", "causation_id", "stream"),
    *("type", "correlation_id", "actor", "payload"),
)
_CONTEXT = Context(parse_actor("user:bench"), uuid7(), "/scheduler")
_ENVIRONMENTS = [
    Environment(
        executor=Executor.EXECUTOR_PROCESS,
        interpreter="CPython 3.11.7",
        packages=[Package(name=f"package-{i}", version=f"{made}.{i}") for i in range(20)],
        requirements_sha256=sha256_of(b"%d" % made),
        os="Debian GNU/Linux 12",
    )
    for made in range(ENVIRONMENTS)
]


class History:
    """Goes on with the log of a database, always in the same way."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        """Use an administrator's connection to a log without events."""
        self._connection = connection
        self._versions: defaultdict[str, int] = defaultdict(int)
        self._runs = self._lives()
        self.position = 0
        self.run_ids: list[str] = []

    async def grow_to(self, position: int) -> None:
        """Write whole lives of runs until the log has so many events."""
        await self._write(islice(self._runs, position - self.position))

    async def queue(self, run_count: int) -> None:
        """Write runs that wait."""
        await self._write(self._queued(*self._next_run()) for _ in range(run_count))

    async def _write(self, events: Iterator[tuple[StreamName, Message]]) -> None:
        while chunk := [self._row(stream, message) for stream, message in islice(events, _COPIED)]:
            await self._connection.copy_records_to_table(
                "event", schema_name="log", columns=_COLUMNS, records=chunk
            )
            await self._connection.copy_records_to_table(
                "event_id",
                schema_name="log",
                columns=("event_id", "position", "lane", "digest"),
                records=[(row[5], row[1], 1, hashlib.sha256(row[11]).digest()) for row in chunk],
            )
        await self._connection.executemany(
            "insert into log.stream values ($1, $2) on conflict do nothing",
            self._versions.items(),
        )
        await self._connection.execute("vacuum analyze log.event, log.event_id, log.stream")

    def _row(self, stream: StreamName, message: Message) -> tuple[Any, ...]:
        self.position += 1
        self._versions[stream] += 1
        at = _BEGUN + timedelta(milliseconds=self.position // _BATCH)
        envelope = wrap(message, stream, _CONTEXT, at)
        envelope.stream_version = self._versions[stream]
        return (
            *(1, self.position, envelope.stream_version, 0, at, envelope.event_id, None, stream),
            *(envelope.type, envelope.correlation_id, actor_name(envelope.actor)),
            envelope.SerializeToString(deterministic=True),
        )

    def _lives(self) -> Iterator[tuple[StreamName, Message]]:
        price = Price(price_id=uuid7(), unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=2_000_000)
        yield stream_name("price", price.price_id), PriceSet(price=price)
        while True:
            lives = [self._life(*self._next_run()) for _ in range(RUNS_AT_ONCE)]
            for _ in range(EVENTS_A_RUN):
                yield from map(next, lives)

    def _next_run(self) -> tuple[int, str]:
        self.run_ids.append(uuid7())
        return len(self.run_ids), self.run_ids[-1]

    def _queued(self, number: int, run_id: str) -> tuple[StreamName, Message]:
        spec = RunSpec(
            step="train",
            command_lines=["python train.py --epochs {parameter:epochs}"],
            executor=Executor.EXECUTOR_PROCESS,
            parameters=[
                ParameterValue(name="epochs", value=Value(number_value=number % 100)),
                ParameterValue(name="rate", value=Value(number_value=0.001)),
            ],
            inputs=[Input(name="dataset", uris=[f"datum://{sha256_of(b'dataset')}"])],
            code=CodeRef(tree_sha256=sha256_of(b"%d" % (number // 100)), git_commit=f"{number // 100:040x}"),
            resources=Resources(gpu_count=1),
            priority=number % 3,
        )
        queued = ev.RunQueued(run_id=run_id, project=f"project-{number % 5}", number=number, spec=spec)
        return stream_name("run", run_id), queued

    def _life(self, number: int, run_id: str) -> Iterator[tuple[StreamName, Message]]:
        lease_id = uuid7()
        node_id, gpu = f"node-{number % NODES}", f"GPU-{number % NODES:08}"
        run, node = stream_name("run", run_id), stream_name("node", node_id)
        of: dict[str, Any] = {"run_id": run_id, "attempt": 1}
        at: dict[str, Any] = {**of, "lease_id": lease_id, "node_id": node_id, "gpu_uuids": [gpu]}
        model = sha256_of(run_id.encode())
        yield self._queued(number, run_id)
        yield node, NodeGpusReserved(**at, project=f"project-{number % 5}", gpu_models=["H200"])
        yield run, ev.RunLeaseGranted(**at, epoch=1, lease_milliseconds=30_000)
        device = GpuDevice(uuid=gpu, model="H200", memory_bytes=150_000_000_000)
        hardware = Hardware(node_id=node_id, hostname=node_id, gpus=[device], cpu_count=96)
        dataset = InputFile(path="dataset.csv", sha256=sha256_of(b"dataset"), size_bytes=1_000)
        inputs = [Input(name="dataset", files=[dataset])]
        yield run, ev.RunStarted(**of, epoch=1, hardware=hardware, inputs=inputs)
        yield run, ev.EnvironmentCaptured(**of, epoch=1, environment=_ENVIRONMENTS[number % ENVIRONMENTS])
        yield run, ev.RunStatusDetailSet(**of, epoch=1, status_detail="epoch 3 of 10")
        cause = Cause(code=CauseCode.CAUSE_CODE_SUCCEEDED, exit_code=0)
        yield run, ev.RunAttemptExited(**of, epoch=1, cause=cause)
        origin = Origin(run_id=run_id, attempt=1, path="model.pt")
        written = ArtifactWritten(sha256=model, size_bytes=10_000_000, origin=origin)
        yield stream_name("artifact", model), written
        yield node, NodeGpusReleased(**at)
        output = OutputFile(path="model.pt", sha256=model, size_bytes=10_000_000)
        yield (
            run,
            ev.RunFinished(run_id=run_id, outcome=Outcome.OUTCOME_SUCCEEDED, cause=cause, outputs=[output]),
        )
