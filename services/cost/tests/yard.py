from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from runyard.cost.v1 import cost_service_pb2 as pb
from runyard.cost.v1.cost_service_pb2_grpc import CostServiceStub
from runyard.cost.v1.types_pb2 import Price
from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard.event.v1.read_pb2 import ReadOptions
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import CommandId, Position, StreamName, stream_name, uuid7
from runyard_eventlog.handler import load
from runyard_eventlog.port import AppendCommand, EventLog, StreamAppend
from runyard_testkit import Database

TOKEN = "token-of-alice"
AGENT_TOKEN = "token-of-node-1"
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
SCHEDULER = Context(
    actor=Actor(kind=ActorKind.ACTOR_KIND_SERVICE, id="scheduler"),
    correlation_id=uuid7(),
    source="/scheduler",
)


@dataclass(frozen=True, slots=True)
class Yard:
    """A running cost service, and the log as the scheduler writes it."""

    cost: CostServiceStub
    database: Database
    log: EventLog
    address: str

    async def set_price(self, price: Price, request_id: str = "") -> pb.SetPriceResponse:
        """Set a price from START on unless it says when."""
        wanted = Price()
        wanted.CopyFrom(price)
        if not wanted.HasField("effective_from"):
            wanted.effective_from.FromDatetime(START)
        answer: pb.SetPriceResponse = await self.cost.SetPrice(
            pb.SetPriceRequest(request_id=request_id or new_id(), price=wanted)
        )
        return answer

    async def run_cost(self, run_id: str, at: Position | int) -> pb.GetRunCostResponse:
        """Ask for a run's cost once the service knows a position."""
        answer: pb.GetRunCostResponse = await self.cost.GetRunCost(
            pb.GetRunCostRequest(run_id=run_id, read=ReadOptions(min_position=at))
        )
        return answer


async def append(log: EventLog, stream: StreamName, event: Message, minutes: float) -> Position:
    """Append an event that occurred some minutes after START."""
    envelope = wrap(event, stream, SCHEDULER, START + timedelta(minutes=minutes))
    version = len(await load(log, stream))
    appended = await log.append(
        AppendCommand(CommandId(uuid7()), [StreamAppend(stream, version, [envelope])])
    )
    return appended.position


async def queue(log: EventLog, run_id: str, project: str = "digits") -> Position:
    return await append(log, stream_name("run", run_id), RunQueued(run_id=run_id, project=project), 0)


async def reserve(
    log: EventLog,
    run_id: str,
    minutes: float,
    *,
    node_id: str = "node-1",
    gpus: Sequence[tuple[str, str]] = (),
    attempt: int = 1,
    project: str = "digits",
) -> Position:
    event = NodeGpusReserved(
        node_id=node_id,
        lease_id=f"lease-{run_id}-{attempt}",
        run_id=run_id,
        attempt=attempt,
        gpu_uuids=[gpu_uuid for gpu_uuid, _ in gpus],
        gpu_models=[model for _, model in gpus],
        project=project,
    )
    return await append(log, stream_name("node", node_id), event, minutes)


async def release(
    log: EventLog, run_id: str, minutes: float, *, node_id: str = "node-1", attempt: int = 1
) -> Position:
    event = NodeGpusReleased(
        node_id=node_id, lease_id=f"lease-{run_id}-{attempt}", run_id=run_id, attempt=attempt
    )
    return await append(log, stream_name("node", node_id), event, minutes)


def new_id() -> str:
    return str(uuid.uuid4())


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def reason(error: grpc.aio.AioRpcError) -> str:
    """Give the stable reason code of a refused call."""
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)
