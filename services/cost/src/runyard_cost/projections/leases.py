"""What costs are computed from: lease intervals, the price book, and the runs of each project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.run.v1.events_pb2 import RunQueued
from runyard.run.v1.glances_pb2 import RunQueuedGlance
from runyard_contracts.glance import Glance
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import PutAll, RowKey, Rows, TableSpec, put_all
from runyard_cost.tables import (
    LEASES,
    PRICES,
    PROJECT_RUNS,
    RUN_LEASES,
    RUNS,
    LeaseRow,
    PriceRow,
    ProjectRunRow,
    RunRow,
)

COST_VERSION = 1


class CostProjection:
    """Folds the log into leases and prices."""

    name = "cost"
    version = COST_VERSION
    tables: tuple[TableSpec[Any], ...] = (PRICES, LEASES, RUN_LEASES, RUNS, PROJECT_RUNS)
    event_types = frozenset(
        {
            "runyard.price.set",
            "runyard.node.gpus_reserved",
            "runyard.node.gpus_released",
            "runyard.run.queued",
        }
    )

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        """Name the rows that an event goes on from."""
        match event.message:
            case NodeGpusReserved() as reserved:
                return (
                    RowKey(PROJECT_RUNS.name, (reserved.project, reserved.run_id)),
                    RowKey(RUNS.name, (reserved.run_id,)),
                )
            case NodeGpusReleased() as released:
                return (RowKey(LEASES.name, (released.node_id, released.lease_id)),)
            case _:
                return ()

    def apply(self, event: RecordedEvent, rows: Rows) -> list[PutAll[Any]]:
        """Give the rows of an event."""
        found = _PUTS.get(event.type)
        if found is None:
            return []
        glance, put = found
        return put(event, glance.at(event.envelope), rows)


def milliseconds_of(time: Timestamp) -> int:
    """Give a time as milliseconds since 1970, rounded down."""
    return time.seconds * 1_000 + time.nanos // 1_000_000


def _put_price(event: RecordedEvent, price_set: PriceSet, _: Rows) -> list[PutAll[Any]]:
    price = price_set.price
    row = PriceRow(
        price_id=price.price_id,
        node_id=price.node_id,
        gpu_model=price.gpu_model,
        unit=price.unit,
        micro_usd_per_hour=price.micro_usd_per_hour,
        effective_from_ms=milliseconds_of(price.effective_from),
        note=price.note,
        event_id=event.envelope.event_id,
        position=event.position,
    )
    return [put_all((PRICES, [row]))]


def _put_queued(event: RecordedEvent, queued: RunQueuedGlance, _: Rows) -> list[PutAll[Any]]:
    return [put_all((RUNS, [RunRow(queued.run_id, event.position, queued.project)]))]


def _put_reserved(event: RecordedEvent, reserved: NodeGpusReserved, rows: Rows) -> list[PutAll[Any]]:
    envelope, position = event.envelope, event.position
    reserved_at_ms = milliseconds_of(envelope.occurred_at)
    node_id, lease_id = reserved.node_id, reserved.lease_id
    run_id, project = reserved.run_id, reserved.project
    gpu_uuids, gpu_models = tuple(reserved.gpu_uuids), tuple(reserved.gpu_models)
    if len(gpu_models) != len(gpu_uuids):
        gpu_models = (*gpu_models, *("" for _ in gpu_uuids))[: len(gpu_uuids)]
    held = (run_id, reserved.attempt, gpu_uuids, gpu_models, reserved_at_ms)
    puts: list[PutAll[Any]] = [
        put_all((LEASES, [LeaseRow(node_id, lease_id, position, *held, None, envelope.event_id, "")])),
        put_all((RUN_LEASES, [(run_id, lease_id, position, node_id)])),
    ]
    if rows.get(RUNS, run_id) is None:
        puts.append(put_all((RUNS, [RunRow(run_id, position, project)])))
    if rows.get(PROJECT_RUNS, project, run_id) is None:
        puts.append(put_all((PROJECT_RUNS, [ProjectRunRow(project, run_id, position, reserved_at_ms)])))
    return puts


def _put_released(event: RecordedEvent, released: NodeGpusReleased, rows: Rows) -> list[PutAll[Any]]:
    lease = rows.get(LEASES, released.node_id, released.lease_id)
    if lease is None or lease.released_at_ms is not None:
        return []
    envelope = event.envelope
    # In a third of the time that _replace takes.
    ended = LeaseRow(
        lease.node_id,
        lease.lease_id,
        event.position,
        lease.run_id,
        lease.attempt,
        lease.gpu_uuids,
        lease.gpu_models,
        lease.reserved_at_ms,
        milliseconds_of(envelope.occurred_at),
        lease.reserved_event_id,
        envelope.event_id,
    )
    return [put_all((LEASES, [ended]))]


_Put = Callable[[RecordedEvent, Any, Rows], list[PutAll[Any]]]
_GLANCES: Sequence[tuple[Glance[Any], _Put]] = (
    (Glance(PriceSet, PriceSet), _put_price),
    (Glance(RunQueued, RunQueuedGlance), _put_queued),
    (Glance(NodeGpusReserved, NodeGpusReserved), _put_reserved),
    (Glance(NodeGpusReleased, NodeGpusReleased), _put_released),
)
_PUTS: Mapping[str, tuple[Glance[Any], _Put]] = {glance.event_type: (glance, put) for glance, put in _GLANCES}
