"""From events to the rows that costs are computed from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.run.v1.events_pb2 import RunQueued, RunStopRequested
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_cost.projections.leases import CostProjection, milliseconds_of
from runyard_cost.tables import (
    LEASES,
    PRICES,
    PROJECT_RUNS,
    RUN_LEASES,
    RUNS,
    LeaseRow,
    PriceRow,
    ProjectRunRow,
    RunLeaseRow,
    RunRow,
)
from runyard_testkit.projecting import Folded, fold

NOON = datetime(2026, 1, 1, 12, 0, 0, 7_900, tzinfo=UTC)
NOON_MS = 1_767_268_800_007
SCHEDULER = Context(
    actor=Actor(kind=ActorKind.ACTOR_KIND_SERVICE, id="scheduler"), correlation_id="c", source="/scheduler"
)
QUEUED = RunQueued(run_id="r1", project="digits")
RESERVED = NodeGpusReserved(
    node_id="node-1",
    lease_id="l1",
    run_id="r1",
    attempt=2,
    gpu_uuids=["GPU-a", "GPU-b"],
    gpu_models=["L4", "L4"],
    project="digits",
)
RELEASED = NodeGpusReleased(node_id="node-1", lease_id="l1", run_id="r1", attempt=2)


def folded(*messages: Message) -> Folded:
    """Fold events that occur a second apart, at positions 1, 2, 3, with ids e1, e2, e3."""
    events = []
    for position, message in enumerate(messages, start=1):
        at = NOON + timedelta(seconds=position - 1)
        envelope = wrap(message, StreamName("run-r1"), SCHEDULER, at)
        envelope.event_id, envelope.position = f"e{position}", position
        events.append(RecordedEvent(envelope, message))
    return fold(CostProjection(), events)


def held(position: int = 1) -> LeaseRow:
    return LeaseRow(
        node_id="node-1",
        lease_id="l1",
        position=position,
        run_id="r1",
        attempt=2,
        gpu_uuids=("GPU-a", "GPU-b"),
        gpu_models=("L4", "L4"),
        reserved_at_ms=NOON_MS + (position - 1) * 1_000,
        released_at_ms=None,
        reserved_event_id=f"e{position}",
        released_event_id="",
    )


def test_a_price_is_a_line_of_the_price_book() -> None:
    price = Price(
        price_id="p1",
        node_id="node-1",
        unit=PriceUnit.PRICE_UNIT_NODE_HOUR,
        micro_usd_per_hour=5,
        effective_from=Timestamp(seconds=3, nanos=4_999_999),
        note="rent",
    )
    row = PriceRow("p1", 1, "node-1", "", PriceUnit.PRICE_UNIT_NODE_HOUR, 5, 3_004, "rent", "e1")
    assert folded(PriceSet(price=price)).rows(PRICES) == [row]


def test_a_lease_holds_its_gpus_until_they_are_released() -> None:
    assert folded(RESERVED).rows(LEASES) == [held()]
    ended = held()._replace(position=2, released_at_ms=NOON_MS + 1_000, released_event_id="e2")
    assert folded(RESERVED, RELEASED).rows(LEASES) == [held(), ended]


def test_a_lease_is_released_once_and_only_if_it_was_held() -> None:
    assert folded(RELEASED).puts == []
    assert len(folded(RESERVED, RELEASED, RELEASED).rows(LEASES)) == 2


def test_a_gpu_whose_model_nobody_told_has_none() -> None:
    untold = NodeGpusReserved()
    untold.CopyFrom(RESERVED)
    untold.ClearField("gpu_models")
    assert [row.gpu_models for row in folded(untold).rows(LEASES)] == [("", "")]
    untold.gpu_models.append("L4")
    assert [row.gpu_models for row in folded(untold).rows(LEASES)] == [("L4", "")]


def test_a_run_is_known_from_when_it_was_queued_and_its_project_from_its_first_lease() -> None:
    again = NodeGpusReserved()
    again.CopyFrom(RESERVED)
    again.lease_id, again.attempt = "l2", 3
    rows = folded(QUEUED, RESERVED, RELEASED, again)
    assert rows.rows(RUNS) == [RunRow("r1", 1, "digits")]
    assert rows.rows(PROJECT_RUNS) == [ProjectRunRow("digits", "r1", 2, NOON_MS + 1_000)]
    assert rows.rows(RUN_LEASES) == [
        RunLeaseRow("r1", "l1", 2, "node-1"),
        RunLeaseRow("r1", "l2", 4, "node-1"),
    ]


def test_a_run_whose_queueing_was_not_told_is_known_from_its_first_lease() -> None:
    assert folded(RESERVED).rows(RUNS) == [RunRow("r1", 1, "digits")]


def test_what_costs_nothing_leaves_no_row() -> None:
    assert folded(RunStopRequested(run_id="r1")).puts == []


def test_milliseconds_are_rounded_down() -> None:
    assert milliseconds_of(Timestamp(seconds=2, nanos=999_999_999)) == 2_999
    assert milliseconds_of(Timestamp(nanos=999_999)) == 0
