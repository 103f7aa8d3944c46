"""A small yard's history in a log of its own, written as the services write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.types_pb2 import Origin
from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard.metric.v1.batches_pb2 import (
    AttemptRef,
    GpuSamplesRecorded,
    HostSamplesRecorded,
    LogChunkRecorded,
    LogStream,
)
from runyard.node.v1.events_pb2 import (
    NodeAttached,
    NodeEnrolled,
    NodeForeignProcessSeen,
    NodeGpusReleased,
    NodeGpusReserved,
)
from runyard.node.v1.types_pb2 import GpuDevice, NodeInventory
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import (
    Cause,
    CauseCode,
    Hardware,
    Input,
    InputFile,
    Outcome,
    OutputFile,
    Resources,
    RunSpec,
    TelemetryMark,
)
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import CommandId, StreamName, deterministic_id, sha256_of, stream_name
from runyard_core.clock import ManualClock
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import AppendCommand, StreamAppend

NODE, SPOOL, GPU = "n1", "s1", "GPU-1"
RUN, LATER_RUN = "0198aaaa-0000-7000-8000-000000000001", "0198bbbb-0000-7000-8000-000000000002"
DATA, MODEL = sha256_of(b"data"), sha256_of(b"model")
ALICE = Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice")
SCHEDULER = Actor(kind=ActorKind.ACTOR_KIND_SERVICE, id="scheduler")
AGENT = Actor(kind=ActorKind.ACTOR_KIND_AGENT, id=NODE)
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Yard:
    """Writes events; time passes only between them."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    log: MemoryEventLog = field(init=False)
    versions: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = MemoryEventLog(now=self.clock.now)

    async def write(
        self,
        category: str,
        name: str,
        message: Message,
        actor: Actor = SCHEDULER,
        *,
        group: str = "",
        cause: str = "",
        late_seconds: float = 0,
        schema_version: int = 0,
    ) -> str:
        """Append an event, a second after the one before; gives its id. 0: of the newest schema version."""
        self.clock.advance(timedelta(seconds=1))
        stream = stream_name(category, name)
        event_id = deterministic_id("event", len(self.ids))
        context = Context(actor, group or event_id, "/test", causation_id=cause)
        occurred = self.clock.now() - timedelta(seconds=late_seconds)
        envelope = wrap(message, stream, context, occurred, event_id=event_id)  # type: ignore[arg-type]
        envelope.schema_version = schema_version or envelope.schema_version
        version = self.versions.get(stream, 0)
        command = CommandId(deterministic_id("command", len(self.ids)))
        await self.log.append(AppendCommand(command, [StreamAppend(StreamName(stream), version, [envelope])]))
        self.versions[stream] = version + 1
        self.ids.append(event_id)
        return event_id

    async def telemetry(self, message: Message, *, group: str = "", late_seconds: float = 0) -> str:
        """Append a batch of the node."""
        name = f"{NODE}.{SPOOL}"
        return await self.write("telemetry", name, message, AGENT, group=group, late_seconds=late_seconds)

    def now_ms(self) -> int:
        return round(self.clock.now().timestamp() * 1000)

    async def enroll(self) -> None:
        inventory = NodeInventory(gpus=[GpuDevice(uuid=GPU, model="H100")], slot_count=2)
        await self.write("node", NODE, NodeEnrolled(node_id=NODE, inventory=inventory), AGENT)
        await self.write("node", NODE, NodeAttached(node_id=NODE, boot_id="b"), AGENT)

    async def price(self, dollars: int) -> None:
        price = Price(
            price_id=f"p{len(self.ids)}",
            unit=PriceUnit.PRICE_UNIT_GPU_HOUR,
            micro_usd_per_hour=dollars * 1_000_000,
        )
        price.effective_from.FromDatetime(START)
        await self.write("price", price.price_id, PriceSet(price=price), ALICE)

    async def queue(self, run_id: str = RUN, number: int = 1, priority: int = 0) -> str:
        await self.write(
            "project",
            "digits",
            ev.ProjectRunNumbered(project="digits", run_id=run_id, number=number),
            ALICE,
            group=run_id,
        )
        spec = RunSpec(step="train", resources=Resources(gpu_count=1), priority=priority)
        queued = ev.RunQueued(run_id=run_id, project="digits", number=number, spec=spec)
        return await self.write("run", run_id, queued, ALICE, group=run_id)

    async def lease(self, cause: str, run_id: str = RUN, attempt: int = 1) -> str:
        lease_id = f"lease-{run_id}-{attempt}"
        granted = ev.RunLeaseGranted(
            run_id=run_id, attempt=attempt, lease_id=lease_id, epoch=attempt, node_id=NODE, gpu_uuids=[GPU]
        )
        lease = await self.write("run", run_id, granted, group=run_id, cause=cause)
        reserved = NodeGpusReserved(
            node_id=NODE,
            lease_id=lease_id,
            run_id=run_id,
            attempt=attempt,
            gpu_uuids=[GPU],
            gpu_models=["H100"],
            project="digits",
        )
        await self.write("node", NODE, reserved, group=run_id, cause=lease)
        return lease

    async def start(self, cause: str, run_id: str = RUN) -> str:
        file = InputFile(uri=f"datum://{DATA}", path="data.bin", sha256=DATA)
        started = ev.RunStarted(
            run_id=run_id,
            attempt=1,
            epoch=1,
            hardware=Hardware(node_id=NODE),
            inputs=[Input(name="data", files=[file])],
        )
        return await self.write("run", run_id, started, AGENT, group=run_id, cause=cause)

    async def lines(self, first: int, *lines: str, run_id: str = RUN) -> None:
        chunk = LogChunkRecorded(
            attempt=AttemptRef(run_id=run_id, attempt=1),
            first_line_number=first,
            lines=lines,
            streams=[LogStream.LOG_STREAM_STDOUT] * len(lines),
        )
        await self.telemetry(chunk, group=run_id)

    async def gpu_samples(self, holder: str, *, late_seconds: float = 0) -> None:
        samples = GpuSamplesRecorded(
            node_id=NODE,
            gpu_uuids=[GPU],
            holders=[AttemptRef(run_id=holder, attempt=1)],
            times_unix_milliseconds=[self.now_ms()],
            utilization_percents=[90],
        )
        await self.telemetry(samples, late_seconds=late_seconds)

    async def host_samples(self, run_id: str = RUN) -> None:
        samples = HostSamplesRecorded(
            attempt=AttemptRef(run_id=run_id, attempt=1),
            node_id=NODE,
            times_unix_milliseconds=[self.now_ms()],
            memory_used_bytes=[1 << 20],
        )
        await self.telemetry(samples, group=run_id)

    async def foreign(self, *, gone: bool = False) -> None:
        seen = NodeForeignProcessSeen(
            node_id=NODE, gpu_uuid=GPU, pid=7, process_name="miner", memory_bytes=1 << 30, gone=gone
        )
        await self.write("node", NODE, seen, AGENT)

    async def finish(self, cause: str, run_id: str = RUN, last_sequence: int = 0) -> str:
        succeeded = Cause(code=CauseCode.CAUSE_CODE_SUCCEEDED)
        exited = ev.RunAttemptExited(run_id=run_id, attempt=1, epoch=1, cause=succeeded)
        exit_id = await self.write("run", run_id, exited, AGENT, group=run_id, cause=cause)
        released = NodeGpusReleased(
            node_id=NODE, lease_id=f"lease-{run_id}-1", run_id=run_id, attempt=1, gpu_uuids=[GPU]
        )
        await self.write("node", NODE, released, group=run_id, cause=exit_id)
        written = ArtifactWritten(
            sha256=MODEL, size_bytes=9, origin=Origin(path="model.npz", run_id=run_id, attempt=1)
        )
        await self.write("artifact", MODEL, written, AGENT)
        finished = ev.RunFinished(
            run_id=run_id,
            attempt=1,
            epoch=1,
            outcome=Outcome.OUTCOME_SUCCEEDED,
            cause=succeeded,
            outputs=[OutputFile(path="model.npz", sha256=MODEL, size_bytes=9)],
            telemetry=TelemetryMark(node_id=NODE, spool_id=SPOOL, last_sequence=last_sequence),
        )
        return await self.write("run", run_id, finished, AGENT, group=run_id, cause=exit_id)


async def yard_with_a_finished_run() -> Yard:
    """One node, one price, one run from queue to end with samples and log lines."""
    yard = Yard()
    await yard.enroll()
    await yard.price(3600)
    queued = await yard.queue()
    started = await yard.start(await yard.lease(queued))
    await yard.lines(1, "one", "two")
    await yard.gpu_samples(RUN)
    await yard.host_samples()
    await yard.lines(3, "three")
    await yard.finish(started, last_sequence=4)
    return yard
