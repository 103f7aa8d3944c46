"""The deadlines' loop beside what it shares the process with."""

from __future__ import annotations

import asyncio

import pytest

from runyard_contracts.ids import NodeId
from runyard_core.clock import ManualClock
from runyard_core.errors import Unavailable
from runyard_eventlog.memory import MemoryEventLog
from runyard_scheduler.clock_watcher import ClockWatcher
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.node_handlers import NodeHandlers
from runyard_scheduler.process.deadlines import Limits
from runyard_scheduler.process.world import World
from runyard_scheduler.sessions import Session, Sessions


@pytest.mark.parametrize("turns", range(4))
async def test_the_watcher_ends_when_it_is_cancelled_while_a_stream_closes(turns: int) -> None:
    clock = ManualClock()
    ledger = Ledger(MemoryEventLog(), World())
    sessions = Sessions(ledger.world, clock, unreachable_seconds=10)
    leases, nodes = LeaseHandlers(ledger, clock, 60_000), NodeHandlers(ledger, clock)
    watcher = ClockWatcher(sessions, leases, nodes, clock, Limits(10, 15))
    session = Session(NodeId("node-1"))
    sessions.open(session, replaced_by=Unavailable("replaced"))
    watching = asyncio.create_task(watcher.run())
    for _ in range(3):
        await asyncio.sleep(0)
    sessions.close(session)
    for _ in range(turns):
        await asyncio.sleep(0)
    watching.cancel()
    done, _ = await asyncio.wait({watching}, timeout=20)
    assert done, "the scheduler would not stop"
