"""Nodes at any moment, however they are found: what each node's own stream shows at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import GpuState
from runyard.node.v1 import events_pb2 as ev
from runyard.node.v1.types_pb2 import GpuDevice, NodeInventory
from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.ids import Position
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import EVERYTHING, EventFilter, Page
from runyard_replay.folding.leases import LEASE_TYPES
from runyard_replay.reading import gpus
from runyard_replay.reading.gpus import gpus_as_of

from .indexed_log import IndexedLog
from .yard import AGENT, Yard

NODES = ("n1", "n2", "n3")
LEASES_EACH = 3
WHOLE = ("runyard.node.",)
NodeEvent = ev.NodeEnrolled | ev.NodeGpusReserved | ev.NodeGpusReleased


class WatchedLog(IndexedLog):
    """Says what types of events were read."""

    def __init__(self, log: MemoryEventLog) -> None:
        super().__init__(log)
        self.types_read: list[tuple[str, ...]] = []

    async def read(
        self,
        lane: Lane.ValueType,
        *,
        after_position: Position = Position(0),
        to_position: Position | None = None,
        filter: EventFilter = EVERYTHING,  # noqa: A002 - the port's word
        limit: int = 1_000,
        descending: bool = False,
    ) -> Page:
        self.types_read.append(tuple(filter.types))
        return await super().read(
            lane,
            after_position=after_position,
            to_position=to_position,
            filter=filter,
            limit=limit,
            descending=descending,
        )


def _reserved(node_id: str, lease_id: str) -> ev.NodeGpusReserved:
    return ev.NodeGpusReserved(
        node_id=node_id, lease_id=lease_id, run_id=f"r-{lease_id}", gpu_uuids=[lease_id]
    )


def _released(node_id: str, lease_id: str) -> ev.NodeGpusReleased:
    return ev.NodeGpusReleased(node_id=node_id, lease_id=lease_id)


def _foreign(node_id: str, *, gone: bool) -> ev.NodeForeignProcessSeen:
    return ev.NodeForeignProcessSeen(node_id=node_id, gpu_uuid="g", pid=7, gone=gone)


def _enrolled(node_id: str) -> ev.NodeEnrolled:
    return ev.NodeEnrolled(node_id=node_id, inventory=NodeInventory(gpus=[GpuDevice(uuid="g")]))


def _next_event(held: dict[str, list[str]], count: int, node_id: str, choice: int) -> Message:
    """Give an event that the scheduler could write: it releases what is held, on nodes that enrolled."""
    if node_id not in held:
        held[node_id] = []
        return _enrolled(node_id)
    leases = held[node_id]
    match choice:
        case 0:
            return ev.NodeAttached(node_id=node_id, boot_id=f"b{count}")
        case 1:
            return ev.NodeDetached(node_id=node_id)
        case 2 | 3:
            return _foreign(node_id, gone=choice == 3)
        case _ if leases and (choice % 2 or len(leases) == LEASES_EACH):
            return _released(node_id, leases.pop(choice % len(leases)))
        case _:
            leases.append(f"l{count}")
            return _reserved(node_id, leases[-1])


async def _history(choices: list[tuple[str, int]]) -> Yard:
    yard = Yard()
    held: dict[str, list[str]] = {}
    for count, (node_id, choice) in enumerate(choices):
        if node_id:
            await yard.write("node", node_id, _next_event(held, count, node_id, choice), AGENT)
        else:
            await yard.write("run", f"r{count}", RunQueued(run_id=f"r{count}"))
    return yard


async def _written(messages: Sequence[NodeEvent]) -> Yard:
    yard = Yard()
    for message in messages:
        await yard.write("node", message.node_id, message, AGENT)
    return yard


@given(
    st.lists(st.tuples(st.sampled_from((*NODES, "")), st.integers(0, 11)), min_size=1, max_size=50),
    st.lists(st.integers(1, 50), min_size=1, max_size=4),
    st.sampled_from([1, 2, 5, 1_000]),
)
@settings(max_examples=150, deadline=None)
def test_leases_looked_for_backwards_are_those_of_all_events(
    choices: list[tuple[str, int]], positions: list[int], walk_events: int
) -> None:
    async def check() -> None:
        yard = await _history(choices)
        log = WatchedLog(yard.log)
        for position in (min(position, len(yard.ids)) for position in positions):
            folded = await gpus_as_of(yard.log, position)
            assert await gpus_as_of(log, position) == folded
            part = await gpus_as_of(log, position, skipped=1, limit=1)
            assert list(part.nodes) == list(folded.nodes[1:2])
        assert WHOLE not in log.types_read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpus, "WALK_EVENTS", walk_events)
        asyncio.run(check())


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([_reserved("n1", "a")], id="on a node that never enrolled"),
        pytest.param(
            [_enrolled("n1"), _reserved("n1", "a"), *[_released("n1", "a")] * 2], id="released twice"
        ),
        pytest.param([_enrolled("n1"), *[_reserved("n1", "a")] * 2], id="reserved twice"),
        pytest.param([_enrolled("n1"), _released("n1", "a")], id="never reserved"),
    ],
)
async def test_where_leases_do_not_fit_all_events_are_folded(messages: Sequence[NodeEvent]) -> None:
    plain = (await _written(messages)).log
    log = WatchedLog(plain)
    head = (await plain.head()).domain_position
    shown = await gpus_as_of(log, head)
    assert shown == await gpus_as_of(plain, head) != GpuState()
    assert WHOLE in log.types_read


async def test_no_event_before_the_oldest_lease_that_is_held_is_read() -> None:
    leases = [f"l{number}" for number in range(20)]
    over = [message("n1", lease) for lease in leases for message in (_reserved, _released)]
    plain = (await _written([_enrolled("n1"), *over, _reserved("n1", "a"), _reserved("n1", "b")])).log
    log = WatchedLog(plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpus, "WALK_EVENTS", 2)
        shown = await gpus_as_of(log, 43)
    assert [held.lease_id for held in shown.nodes[0].reservations] == ["a", "b"]
    assert log.types_read.count(LEASE_TYPES) == 1
