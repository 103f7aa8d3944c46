"""What may be believed of a stream: its messages may be old, and its agent gone."""

from __future__ import annotations

from datetime import timedelta

import pytest

from runyard.agent.v1.agent_service_pb2 import HeldAttempt
from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import LeaseId, NodeId
from runyard_core.clock import ManualClock
from runyard_core.errors import Unavailable
from runyard_scheduler.process.world import World
from runyard_scheduler.sessions import OVERRUN_SECONDS_MAX, Session, Sessions

from .yard import MemoryYard, a_spec

NODE = NodeId("node-1")
REPLACED = Unavailable("replaced")


def attached(sessions: Sessions) -> Session:
    session = Session(NODE)
    sessions.open(session, replaced_by=REPLACED)
    sessions.heard(session, [], [])
    return session


def test_a_silent_node_is_not_ready_until_it_is_heard_again() -> None:
    clock = ManualClock()
    sessions = Sessions(World(), clock, unreachable_seconds=10)
    session = attached(sessions)
    assert sessions.ready() == {NODE}
    clock.advance(timedelta(seconds=10))
    assert sessions.ready() == frozenset()
    told: list[bool] = []
    sessions.on_change(lambda: told.append(True))
    sessions.heard(session, [], [])
    assert sessions.ready() == {NODE}
    assert told


def test_a_node_that_time_makes_ready_again_is_told_of_once() -> None:
    clock = ManualClock()
    sessions = Sessions(World(), clock, unreachable_seconds=10)
    session = attached(sessions)
    told: list[bool] = []
    sessions.on_change(lambda: told.append(True))
    seconds = 0.0
    while seconds <= OVERRUN_SECONDS_MAX + 4:
        sessions.heard(session, [], [], overrun=True)
        clock.advance(timedelta(seconds=2))
        seconds += 2
    # Once that it takes nothing new, and once that it does: whoever waits for it plans anew.
    assert sessions.ready() == {NODE}
    assert len(told) == 2


@pytest.fixture
async def leased(yard: MemoryYard) -> tuple[Sessions, ManualClock, HeldAttempt]:
    """A yard whose node has a lease, and sessions that have not heard of the node yet."""
    agent = await yard.attach()
    await yard.submit(a_spec(gpu_count=1))
    grant = await agent.grant()
    await agent.close()
    world = World()
    page = await yard.ledger.log.read(Lane.LANE_DOMAIN)
    world.follow(page.events, page.scanned_to)
    attempt = HeldAttempt(run_id=grant.run_id, attempt=1, epoch=1, lease_id=grant.lease_id)
    clock = ManualClock()
    return Sessions(world, clock, unreachable_seconds=10), clock, attempt


async def test_one_old_hello_does_not_disown_an_attempt(
    leased: tuple[Sessions, ManualClock, HeldAttempt],
) -> None:
    sessions, clock, _ = leased
    attached(sessions)
    (watch,) = sessions.lease_watches()
    assert not watch.disowned
    clock.advance(timedelta(seconds=10))
    (watch,) = sessions.lease_watches()
    assert not watch.disowned


async def test_an_attempt_that_heartbeats_keep_leaving_out_is_disowned(
    leased: tuple[Sessions, ManualClock, HeldAttempt],
) -> None:
    sessions, clock, _ = leased
    session = attached(sessions)
    for _ in range(5):
        clock.advance(timedelta(seconds=2))
        sessions.heard(session, [], [])
    (watch,) = sessions.lease_watches()
    assert watch.disowned


async def test_an_attempt_that_is_named_again_is_not_disowned(
    leased: tuple[Sessions, ManualClock, HeldAttempt],
) -> None:
    sessions, clock, attempt = leased
    session = attached(sessions)
    clock.advance(timedelta(seconds=9))
    sessions.heard(session, [attempt], [LeaseId(attempt.lease_id)])
    clock.advance(timedelta(seconds=2))
    sessions.heard(session, [], [])
    (watch,) = sessions.lease_watches()
    assert not watch.disowned
