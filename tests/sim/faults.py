"""The faults of a seed: which kinds there are, and what is done when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.sim.machine import Machine
from tests.sim.network import Wire
from tests.sim.scheduler_process import SchedulerProcess
from tests.sim.universe import Universe
from tests.sim.unreliable_log import LogWeather

_CUT_SECONDS = (1.0, 5.0, 12.0, 25.0, 50.0, 80.0, 130.0)
_DOWN_SECONDS = (0.0, 1.0, 8.0, 20.0, 45.0, 90.0)


@dataclass(slots=True)
class Faults:
    """Breaks things until told to stop."""

    universe: Universe
    machines: Sequence[Machine]
    scheduler: Callable[[], SchedulerProcess | None]
    weather: LogWeather

    async def rage(self, seconds: float) -> None:
        """Break things for a while, then mend everything for good."""
        chance = self.universe.chance
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._kill_scheduler,
            self._kill_agent,
            self._reboot,
            self._cut,
            self._cut,
            self._reset,
            self._outage,
        ]
        # A seed has only some of them: what always happens together hides what happens alone.
        chosen = chance.sample(kinds, chance.randint(0, len(kinds)))
        pause_seconds = chance.choice((3.0, 10.0, 30.0))
        self.weather.fails_often = chance.choice((0.0, 0.0, 0.01, 0.1))
        self.weather.latency_seconds_max = chance.choice((0.0, 0.01, 0.3))
        end = self.universe.clock.monotonic_seconds() + seconds
        async with asyncio.TaskGroup() as group:
            while self.universe.clock.monotonic_seconds() < end:
                await asyncio.sleep(chance.expovariate(1 / pause_seconds))
                if chosen:
                    group.create_task(self._do(chance.choice(chosen)))

    def mend(self) -> None:
        """End every fault."""
        self.universe.note("everything is mended")
        self.universe.calm = True
        self.weather.is_away = False
        self.weather.fails_often = 0.0
        self.weather.latency_seconds_max = 0.01
        for machine in self.machines:
            machine.neighbour.up.heal()
            machine.neighbour.down.heal()

    async def _do(self, fault: Callable[[], Awaitable[None]]) -> None:
        await fault()

    def _machine(self) -> Machine:
        return self.universe.chance.choice(self.machines)

    async def _kill_scheduler(self) -> None:
        scheduler = self.scheduler()
        if scheduler is not None:
            self.universe.sometimes("scheduler killed")
            scheduler.crash()

    async def _kill_agent(self) -> None:
        self.universe.sometimes("agent killed")
        self._machine().kill_agent(self.universe.chance.choice(_DOWN_SECONDS))

    async def _reboot(self) -> None:
        self.universe.sometimes("machine lost power")
        self._machine().reboot(self.universe.chance.choice(_DOWN_SECONDS))

    async def _reset(self) -> None:
        self._machine().neighbour.reset()

    async def _cut(self) -> None:
        machine, chance = self._machine(), self.universe.chance
        wires: Sequence[Wire] = chance.choice(
            (
                (machine.neighbour.up,),
                (machine.neighbour.down,),
                (machine.neighbour.up, machine.neighbour.down),
            )
        )
        seconds = chance.choice(_CUT_SECONDS)
        names = "+".join("up" if wire is machine.neighbour.up else "down" for wire in wires)
        self.universe.note(f"{machine.node_id}: network cut {names} for {seconds:.0f} s")
        self.universe.sometimes(f"network cut {names}")
        for wire in wires:
            wire.cut()
        await asyncio.sleep(seconds)
        for wire in wires:
            wire.heal()

    async def _outage(self) -> None:
        if self.weather.is_away:
            return
        seconds = self.universe.chance.choice((0.5, 3.0, 15.0, 40.0))
        self.universe.note(f"log away for {seconds:.0f} s")
        self.universe.sometimes("log away")
        self.weather.is_away = True
        await asyncio.sleep(seconds)
        self.weather.is_away = False
