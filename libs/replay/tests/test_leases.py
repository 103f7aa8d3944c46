"""Costs at any moment, however leases are found: what folding every event of the same log gives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import PriceAgainRequest, ProjectCostState, SubjectKind
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.run.v1.events_pb2 import ProjectRunNumbered
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.memory import MemoryEventLog
from runyard_replay.reading import leases
from runyard_replay.reading.moments import moment_of
from runyard_replay.reading.repricing import price_again
from runyard_replay.reading.states import thing_as_of
from runyard_replay.reading.subjects import Thing

from . import indexed_log
from .indexed_log import IndexedLog
from .yard import START, Yard

PROJECTS = ("digits", "faces")
NODES = ("n1", "n2")
COST = SubjectKind.SUBJECT_KIND_COST
OF_GPU, OF_NODE = PriceUnit.PRICE_UNIT_GPU_HOUR, PriceUnit.PRICE_UNIT_NODE_HOUR
UNREADABLE_VERSION = 99

_prices = st.builds(
    lambda scope, unit, dollars: Price(
        node_id=scope if scope in NODES else "",
        gpu_model=scope if scope == "H100" else "",
        unit=OF_GPU if scope == "H100" else unit,
        micro_usd_per_hour=dollars * 1_000_001,
    ),
    st.sampled_from(["", "n1", "H100"]),
    st.sampled_from([OF_GPU, OF_GPU, OF_NODE]),
    st.integers(0, 9),
)
# Of few leases and runs: what the scheduler never writes comes about, too, as reserving one twice.
_reservations = st.builds(
    lambda lease, run, project, node, gpus: NodeGpusReserved(
        node_id=node,
        lease_id=f"l{lease}",
        run_id=f"r{run}",
        attempt=1 + lease % 2,
        gpu_uuids=[f"g{gpu}" for gpu in range(gpus)],
        gpu_models=["H100"] * (gpus - 1),
        project=project,
    ),
    st.integers(0, 5),
    st.integers(0, 5),
    st.sampled_from(PROJECTS),
    st.sampled_from(NODES),
    st.integers(0, 3),
)
_releases = st.builds(lambda lease: NodeGpusReleased(node_id="n1", lease_id=f"l{lease}"), st.integers(0, 5))
_histories = st.lists(
    st.tuples(
        st.one_of(_prices.map(lambda price: PriceSet(price=price)), _reservations, _reservations, _releases),
        st.sampled_from([0, 0, 0, 0, 0, UNREADABLE_VERSION]),
        st.sampled_from([0, 0, 0, 2_000]),
    ),
    min_size=1,
    max_size=40,
)


class WatchedLog(IndexedLog):
    """Says which events were read, to be glanced at or whole."""

    def __init__(self, log: MemoryEventLog) -> None:
        super().__init__(log)
        self.events_read: list[list[int]] = []

    async def events(self, positions: Sequence[int]) -> list[RecordedEvent]:
        self.events_read.append(list(positions))
        return await super().events(positions)


async def _written(history: Sequence[tuple[Message, int, int]]) -> Yard:
    yard = Yard()
    for project in PROJECTS:
        numbered = ProjectRunNumbered(project=project, run_id="r1", number=1)
        await yard.write("project", project, numbered)
    for number, (message, version, late_seconds) in enumerate(history):
        category, name = "node", getattr(message, "node_id", "")
        if isinstance(message, PriceSet):
            category, message.price.price_id = "price", f"p{number}"
            name = message.price.price_id
            message.price.effective_from.FromDatetime(START)
        await yard.write(category, name, message, late_seconds=late_seconds, schema_version=version)
    return yard


async def _cost(yard: Yard, log: MemoryEventLog, project: str, position: int) -> ProjectCostState:
    moment = await moment_of(log, AsOf(position=position), yard.clock)
    return (await thing_as_of(log, Thing(COST, project), moment)).cost


@given(_histories, st.lists(st.integers(3, 42), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_leases_that_the_index_leads_to_cost_what_all_events_give(
    history: Sequence[tuple[Message, int, int]], positions: Sequence[int]
) -> None:
    half = Price(unit=OF_NODE, micro_usd_per_hour=1_800_000_000)

    async def check() -> None:
        yard = await _written(history)
        log = IndexedLog(yard.log)
        for position in (min(position, len(yard.ids)) for position in positions):
            for project in PROJECTS:
                folded = await _cost(yard, yard.log, project, position)
                assert await _cost(yard, log, project, position) == folded
                again = PriceAgainRequest(project=project, prices=[half], as_of=AsOf(position=position))
                answer = await price_again(yard.log, again, yard.clock)
                assert await price_again(log, again, yard.clock) == answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "PAYLOADS_EACH", 6)
        for module in (leases, indexed_log):
            patch.setattr(module, "PAYLOADS_TOGETHER", 3)
        asyncio.run(check())


async def test_only_what_cannot_be_glanced_at_is_read_whole() -> None:
    reserved = NodeGpusReserved(node_id="n1", lease_id="a", run_id="r1", gpu_uuids=["g"], project="digits")
    released = NodeGpusReleased(node_id="n1", lease_id="a")
    plain: list[tuple[Message, int, int]] = [(reserved, 0, 0), (released, 0, 0)]
    for history, read in ((plain, [[3, 4]]), ([*plain, (released, UNREADABLE_VERSION, 0)], 2 * [[3, 4, 5]])):
        yard = await _written(history)
        log = WatchedLog(yard.log)
        cost = await _cost(yard, log, "digits", len(yard.ids))
        assert cost == await _cost(yard, yard.log, "digits", len(yard.ids))
        assert (cost.gpu_milliseconds, log.looked_at, log.events_read) == (1_000, read[:1], read)
