"""The world in memory, and watching the log."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position, RunId
from runyard_core.clock import ManualClock, SystemClock
from runyard_core.errors import IdReused, NotFound, ResourceExhausted
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.memory import MemoryEventLog
from runyard_scheduler.handlers import Handlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.process.world import World
from runyard_scheduler.watch import STALL_SECONDS_MAX, Watched, Watches

from .yard import MemoryYard, a_spec, a_submit, started


async def test_a_run_that_ended_early_does_not_come_back_when_the_log_tells_of_it(yard: MemoryYard) -> None:
    run = await yard.submit()
    await yard.stop(run.run_id)
    world = yard.ledger.world
    page = await yard.ledger.log.read(Lane.LANE_DOMAIN)
    assert run.run_id in {event.envelope.stream.removeprefix("run-") for event in page.events}
    for event in page.events:
        world.follow([event], event.position)
        assert world.run(run.run_id) is None
        assert world.queue == {}


async def test_events_are_applied_once_however_often_they_are_told(yard: MemoryYard) -> None:
    await yard.submit(a_spec(gpu_count=1))
    page = await yard.ledger.log.read(Lane.LANE_DOMAIN)
    once, often = World(), World()
    once.follow(page.events, page.scanned_to)
    for event in [*page.events, *page.events]:
        often.apply(event)
    assert list(once.runs()) == list(often.runs())
    assert once.queue == often.queue


async def test_whoever_catches_up_from_anywhere_knows_what_is_live(yard: MemoryYard) -> None:
    agent = await yard.attach()
    ended, stopped, _ = [await yard.submit(a_spec(gpu_count=1)) for _ in range(3)]
    grants = [await agent.grant() for _ in range(2)]
    await agent.run_to_the_end(grants[0])
    await yard.stop(stopped.run_id)
    await agent.run_to_the_end(grants[1])
    await agent.report(started(await agent.grant()))
    await yard.submit(a_spec(gpu_count=2))
    log = yard.ledger.log
    page = await log.read(Lane.LANE_DOMAIN)
    whole = World()
    whole.follow(page.events, page.scanned_to)
    assert whole.run(ended.run_id) is None
    assert len(list(whole.runs())) == 2
    for count in range(len(page.events) + 1):
        before = page.events[:count]
        late = Ledger(log, World())
        late.world.follow(before, before[-1].position if before else Position(0))
        await late.catch_up()
        assert list(late.world.runs()) == list(whole.runs())
        assert list(late.world.nodes()) == list(whole.nodes())
        assert (late.world.queue, late.world.position) == (whole.queue, whole.position)


async def test_names_are_looked_up_no_earlier_than_what_a_client_was_told(yard: MemoryYard) -> None:
    request = a_submit()
    shown = await yard.handlers.submit(request)
    await yard.stop(shown.run.run_id)
    last = (await yard.ledger.history(shown.run.run_id))[-1]
    # The world has not followed the log yet, and has let go of the run.
    assert yard.ledger.world.position == 0
    assert yard.ledger.known_position == last.position


async def test_two_schedulers_never_give_a_run_or_a_number_twice(as_alice: None) -> None:
    log, clock = MemoryEventLog(), ManualClock()
    first, second = (Handlers(Ledger(log, World()), clock) for _ in range(2))
    numbers = [(await handlers.submit(a_submit())).run.number for handlers in (first, second, first, second)]
    assert numbers == [1, 2, 3, 4]


async def test_a_repeated_request_gets_the_first_answer_and_other_content_is_refused(
    yard: MemoryYard,
) -> None:
    request = a_submit(title="first")
    shown = await yard.handlers.submit(request)
    assert await yard.handlers.submit(request) == shown
    request.title = "second"
    with pytest.raises(IdReused):
        await yard.handlers.submit(request)


@pytest.mark.parametrize("run_id", ["nobody", "no/body", ""])
async def test_an_unknown_run_is_not_found(yard: MemoryYard, run_id: str) -> None:
    with pytest.raises(NotFound):
        await yard.ledger.run(RunId(run_id))


async def test_a_slow_watcher_is_sent_away_with_its_position(yard: MemoryYard) -> None:
    for _ in range(3):
        await yard.submit()
    watcher = Watches(yard.ledger, yard.clock).watch(Watched(after_position=0))
    first = await anext(watcher)
    assert first.event.type == "runyard.run.queued"
    yard.clock.advance(timedelta(seconds=STALL_SECONDS_MAX + 60))
    with pytest.raises(ResourceExhausted) as error:
        await anext(watcher)
    assert error.value.code == "WATCHER_TOO_SLOW"
    again = Watches(yard.ledger, yard.clock).watch(Watched(int(error.value.metadata["position"])))
    second = await anext(again)
    assert Position(second.event.position) > Position(first.event.position)
    await again.aclose()


async def test_an_idle_watcher_gets_bookmarks(yard: MemoryYard) -> None:
    doorbell = Doorbell()
    watches = Watches(yard.ledger, SystemClock(), doorbell, bookmark_seconds=0.01)
    watcher = watches.watch(Watched(after_position=-1))
    assert (await anext(watcher)).WhichOneof("item") == "caught_up_position"
    asyncio.get_running_loop().call_later(0.05, doorbell.ring)
    assert (await anext(watcher)).WhichOneof("item") == "bookmark_position"
    await watcher.aclose()
