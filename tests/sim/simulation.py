"""One seed from an empty log to rest: the yard is built, used, broken, mended, and looked at."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import grpc

from runyard.event.v1.envelope_pb2 import Lane
from runyard.run.v1 import events_pb2 as ev
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Unavailable
from runyard_cost.projections.leases import CostProjection
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.memory import MemoryEventLog
from runyard_lineage.projections.edges import EdgesProjection
from runyard_scheduler.process.world import World
from runyard_scheduler.projections.scheduler import SchedulerProjection
from tests.sim.checker import Checker, RunStory
from tests.sim.clients import Clients
from tests.sim.faults import Faults
from tests.sim.machine import Machine, an_inventory, machines_in_place_of_real_ones
from tests.sim.network import Network
from tests.sim.read_model import MemoryProjector, Tables
from tests.sim.scheduler_process import SchedulerProcess, Settings
from tests.sim.truth import Truth
from tests.sim.universe import Finding, Note, Universe
from tests.sim.unreliable_log import LogWeather, UnreliableLog
from tests.sim.virtual_time import NothingHappensError, VirtualLoop, decided_by

REST_SECONDS_MAX = 900.0
"""Every accepted run must have ended this long after the last fault."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a seed came to."""

    seed: int
    findings: tuple[Finding, ...]
    notes: tuple[Note, ...]
    stories: dict[str, RunStory]
    reached: Counter[str]
    event_count: int
    virtual_seconds: float
    digest: str
    """SHA-256 of the whole log: the same for the same seed and code."""


def simulate(seed: int) -> Result:
    """Run one seed to its end."""
    universe = Universe(seed)
    disk = Path(tempfile.mkdtemp(prefix="runyard-sim-", dir=_memory_disk()))
    try:
        with decided_by(universe.clock, universe.chance):
            simulation = Simulation(universe, disk)
            with (
                machines_in_place_of_real_ones({machine.disk: machine for machine in simulation.machines}),
                mock.patch.object(grpc.aio, "insecure_channel", simulation.network.channel),
                asyncio.Runner(loop_factory=lambda: VirtualLoop(universe.clock)) as runner,
            ):
                return runner.run(simulation.run())
    finally:
        shutil.rmtree(disk, ignore_errors=True)


class Simulation:
    """The yard of one seed."""

    def __init__(self, universe: Universe, disk: Path) -> None:
        self._universe = universe
        chance = universe.chance
        node_ids = [f"node-{number}" for number in range(1, chance.randint(1, 4) + 1)]
        self.network = Network(universe, node_ids)
        self._truth = Truth(universe)
        self._checker = Checker(universe, self._truth)
        self._memory = MemoryEventLog(now=universe.clock.now)
        self._weather = LogWeather()
        self._settings = Settings(universe)
        self._tables = Tables(SchedulerProjection())
        self._others = [Tables(CostProjection()), Tables(EdgesProjection())]
        self._scheduler: SchedulerProcess | None = None
        # At least one machine can run anything that is asked for: what can never run waits for ever.
        gpu_counts = [chance.randint(2, 4), *(chance.randint(0, 4) for _ in node_ids[1:])]
        self.machines = [
            Machine(
                universe,
                self.network.neighbours[node_id],
                disk / node_id,
                self._truth,
                an_inventory(node_id, gpu_count, chance.randint(1, 4)),
            )
            for node_id, gpu_count in zip(node_ids, gpu_counts, strict=True)
        ]
        self._clients = Clients(universe, lambda: self._scheduler, max(gpu_counts))
        self._faults = Faults(universe, self.machines, lambda: self._scheduler, self._weather)

    async def run(self) -> Result:
        """Live through the seed; findings are in the result."""
        working = asyncio.create_task(self._work())
        finding = asyncio.create_task(self._universe.has_found.wait())
        await asyncio.wait({working, finding}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
        finding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await working
            except NothingHappensError as error:
                self._universe.never(str(error))
        return await self._result()

    async def _work(self) -> None:
        chance = self._universe.chance
        running = [asyncio.create_task(self._keep_scheduler())]
        running += [asyncio.create_task(machine.run()) for machine in self.machines]
        running += [asyncio.create_task(self._project(tables)) for tables in self._others]
        try:
            seconds = chance.choice((60.0, 150.0, 300.0))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._rage_then_mend(seconds))
                for number in range(chance.randint(3, 20)):
                    group.create_task(self._submit_at(chance.uniform(0, seconds * 0.9), f"request {number}"))
            await self._rest()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _rage_then_mend(self, seconds: float) -> None:
        await self._faults.rage(seconds)
        self._faults.mend()

    async def _submit_at(self, seconds: float, title: str) -> None:
        await asyncio.sleep(seconds)
        await self._clients.submit(title)

    async def _keep_scheduler(self) -> None:
        while True:
            await self._look_at_restored_world()
            process = SchedulerProcess(
                self._universe,
                self._memory,
                self._weather,
                self._tables,
                self.network,
                self._checker.observe,
                self._settings,
            )
            self._scheduler = process
            life = process.start()
            try:
                await asyncio.wait({life})
            except asyncio.CancelledError:
                process.crash()
                raise
            if not life.cancelled() and not isinstance(life.exception(), Unavailable):
                self._universe.never(f"the scheduler died by itself: {life.exception()!r}")
            down_seconds = self._universe.chance.choice((0.1, 2.0, 15.0, 70.0))
            await asyncio.sleep(0.1 if self._universe.calm else down_seconds)

    async def _project(self, tables: Tables) -> None:
        """A service that only projects; it dies and comes back too."""
        chance, doorbell = self._universe.chance, Doorbell()
        self._weather.doorbells.append(doorbell)
        log = UnreliableLog(self._memory, self._weather, self._universe, self._checker.observe)
        while True:
            projector = MemoryProjector(tables, log, doorbell, self._universe)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._universe.calm else chance.uniform(1, 100)):
                    await projector.run()

    async def _rest(self) -> None:
        """Wait until every run has ended, then look at everything."""
        end = self._universe.clock.monotonic_seconds() + REST_SECONDS_MAX
        while self._checker.unfinished() and self._universe.clock.monotonic_seconds() < end:  # noqa: ASYNC110
            await asyncio.sleep(5)
        for run_id in self._checker.unfinished():
            self._universe.never(
                f"the run has not ended {REST_SECONDS_MAX:.0f} s after the last fault", run_id
            )
        # Agents send their last reports, projectors and worlds come to the head of the log.
        await asyncio.sleep(130)
        events = await self._events()
        self._checker.check_ends()
        self._check_requests(events)
        self._check_read_models(events)
        self._checker.check_cost(self._others[0])
        self._check_agents()

    def _check_requests(self, events: list[RecordedEvent]) -> None:
        queued = [event.message for event in events if isinstance(event.message, ev.RunQueued)]
        by_title = {message.title: (message.run_id, message.number) for message in queued}
        self._universe.always(len(by_title) == len(queued), "a request made two runs")
        for title, told in self._clients.accepted.items():
            self._universe.always(by_title.get(title) == told, f"{title}: told {told}", told[0])

    def _check_read_models(self, events: list[RecordedEvent]) -> None:
        head = events[-1].position if events else Position(0)
        for live in (self._tables, *self._others):
            name = live.projection.name
            self._universe.always(live.position == head, f"{name} is at {live.position} of {head}")
            rebuilt = Tables(live.projection)
            wanted = [event for event in events if event.type in live.projection.event_types]
            rebuilt.take(wanted, head)
            self._universe.always(live.rows == rebuilt.rows, f"{name}: live rows are not the rebuilt ones")
        fresh = World()
        fresh.follow(events, head)
        ledger = None if self._scheduler is None else self._scheduler.ledger
        if ledger is not None:
            self._checker.check_world(ledger.world, fresh, "the scheduler's world")
        self._checker.check_world(self._tables.world(), fresh, "the restored world")

    def _check_agents(self) -> None:
        for machine in self.machines:
            left = machine.left_attempts()
            self._universe.always(not left, f"{machine.node_id} still holds {left}")

    async def _look_at_restored_world(self) -> None:
        """At any moment the read model gives the world that the log gives."""
        events = await self._events(self._tables.position)
        fresh = World()
        fresh.follow(events, self._tables.position)
        self._checker.check_world(self._tables.world(), fresh, "the restored world")

    async def _events(self, to_position: Position | None = None) -> list[RecordedEvent]:
        events: list[RecordedEvent] = []
        while True:
            after = events[-1].position if events else Position(0)
            page = await self._memory.read(Lane.LANE_DOMAIN, after_position=after, to_position=to_position)
            if not page.events:
                return events
            events += page.events

    async def _result(self) -> Result:
        events = await self._events()
        digest = hashlib.sha256()
        for event in events:
            digest.update(event.envelope.SerializeToString(deterministic=True))
        universe = self._universe
        return Result(
            universe.seed,
            tuple(universe.findings),
            tuple(universe.notes),
            dict(self._checker.stories),
            universe.reached,
            len(events),
            universe.clock.monotonic_seconds(),
            digest.hexdigest(),
        )


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
