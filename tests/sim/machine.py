"""A machine: its disk, its programs under their shims, and the real agent, life after life."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from runyard.agent.v1.agent_service_pb2 import AttemptStarted
from runyard.node.v1.types_pb2 import GpuDevice, NodeInventory
from runyard.run.v1.types_pb2 import Environment, Executor, OutputFile
from runyard_agent import attempt as attempt_module
from runyard_agent import attempt_store, collecting, loop
from runyard_agent.attempt import Attempt
from runyard_agent.attempt_store import AttemptStore
from runyard_agent.executors import ExecutorOnNode
from runyard_agent.loop import Attempts
from runyard_agent.node import Node
from runyard_agent.outputs import OutputsIncomplete, OutputsOf
from runyard_agent.package_lists import PackageLists
from runyard_agent.preparation import make_folders
from runyard_agent.runtime import EndedBy, Exit, Handle, LaunchPlan
from runyard_agent.uplink import Uplink
from runyard_core.clock import Clock
from runyard_core.errors import RunyardError
from tests.sim.network import Neighbour
from tests.sim.silence import NoReadings, Silence
from tests.sim.truth import Execution, Truth
from tests.sim.universe import Universe

SHIM_SECONDS_MAX = 1.0
"""How late a shim may look at its lease and kill."""


class AgentKilled(BaseException):
    """Kill -9 in the middle of a step."""


@dataclass(frozen=True, slots=True)
class SkewedClock:
    """A machine's clock: its time of day is wrong."""

    clock: Clock
    skew: timedelta

    def now(self) -> datetime:
        return self.clock.now() + self.skew

    def monotonic_seconds(self) -> float:
        return self.clock.monotonic_seconds()


class Program:
    """User code below its shim."""

    def __init__(self, machine: Machine, plan: LaunchPlan, execution: Execution) -> None:
        self._machine = machine
        self._universe = machine.universe
        self.plan = plan
        self.execution = execution
        self.ended = asyncio.Event()
        chance = self._universe.chance
        self._ignores_sigterm = chance.random() < 0.3
        mean_seconds = chance.choice((5.0, 25.0, 120.0))
        seconds = (
            min(400.0, chance.expovariate(1 / mean_seconds)) if not machine.calm else chance.uniform(0.1, 5)
        )
        self._later(seconds, chance.choice((0, 0, 0, 1, 2, 137)), 0)
        if plan.ends_on_lease_expiry:
            self._watch_lease()

    @property
    def is_running(self) -> bool:
        return self.execution.ended_at_seconds is None

    def take_signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            self._later(self._universe.between(0.0, 0.2), None, number)
        elif not self._ignores_sigterm:
            polite = self._universe.chance.random() < 0.3
            self._later(self._universe.between(0.0, 4.0), 0 if polite else None, 0 if polite else number)

    def lose(self) -> None:
        """The machine loses power."""
        if self.is_running:
            self.execution.ended_at_seconds = self._universe.clock.monotonic_seconds()
            self.execution.lost = True
        self.ended.set()

    def _later(
        self, seconds: float, exit_code: int | None, number: int, by: EndedBy = EndedBy.ITSELF
    ) -> None:
        asyncio.get_running_loop().call_later(seconds, self._end, exit_code, number, by)

    def _end(self, exit_code: int | None, number: int, by: EndedBy) -> None:
        if not self.is_running:
            return
        self.execution.ended_at_seconds = self._universe.clock.monotonic_seconds()
        self.execution.exit = Exit(exit_code, number, False, self._machine.clock.now(), by)
        self._universe.note(
            f"{self._machine.node_id}: program of attempt {self.plan.attempt} ended: "
            f"exit {exit_code}, signal {number}, by {by.value}",
            self.plan.run_id,
        )
        if by == EndedBy.LEASE_EXPIRY:
            self._universe.sometimes("shim ended a program whose lease ran out")
        if not self._machine.agent_lives:
            self._universe.sometimes("program ended while its agent was dead")
        self.ended.set()

    def _watch_lease(self) -> None:
        if not self.is_running:
            return
        expires_at = self._lease_expires_at()
        now = self._universe.clock.monotonic_seconds()
        if now < expires_at:
            asyncio.get_running_loop().call_later(
                expires_at - now + self._universe.between(0.0, SHIM_SECONDS_MAX / 2), self._watch_lease
            )
            return
        self._later(
            self._universe.between(0.0, SHIM_SECONDS_MAX / 2), None, signal.SIGKILL, EndedBy.LEASE_EXPIRY
        )

    def _lease_expires_at(self) -> float:
        try:
            return float(self.plan.lease_file.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0.0


class Machine:
    """A node of the yard. Its disk and its programs outlive the agent; its disk outlives a reboot."""

    def __init__(
        self, universe: Universe, neighbour: Neighbour, disk: Path, truth: Truth, inventory: NodeInventory
    ) -> None:
        self.universe = universe
        self.neighbour = neighbour
        self.node_id = neighbour.node_id
        self.disk = disk
        self.truth = truth
        self.clock = SkewedClock(
            universe.clock, timedelta(seconds=universe.chance.choice((0, 0, -3, 2, -3600, 7)))
        )
        self.programs: dict[str, Program] = {}
        self.down_seconds = 0.0
        self._inventory = inventory
        self._booted_at = self.clock.now()
        self._life: asyncio.Task[None] | None = None
        self._lost_power = False
        self._is_dying = False

    @property
    def calm(self) -> bool:
        return self.universe.calm

    @property
    def agent_lives(self) -> bool:
        return self._life is not None and not self._life.done()

    async def run(self) -> None:
        """Start the agent whenever it has died."""
        while True:
            self._is_dying = self._lost_power = False
            self._life = asyncio.get_running_loop().create_task(self._live())
            await asyncio.wait({self._life})
            self.neighbour.leave(silently=self._lost_power)
            self._look_at_death(self._life)
            down_seconds, self.down_seconds = self.down_seconds, 0.0
            await asyncio.sleep(down_seconds if not self.calm else 0.1)

    def kill_agent(self, down_seconds: float) -> None:
        if self._life is not None and not self._is_dying:
            self.universe.note(f"{self.node_id}: agent killed, back in {down_seconds:.0f} s")
            self._is_dying = True
            self.down_seconds = down_seconds
            self._life.cancel()

    def reboot(self, down_seconds: float) -> None:
        """Lose power: agent and programs are gone, the disk is not."""
        self._lost_power = True
        self.neighbour.leave(silently=True)
        self.kill_agent(down_seconds)
        self.universe.note(f"{self.node_id}: power lost")
        for program in self.programs.values():
            program.lose()
        number = int(self._inventory.boot_id.rpartition("-")[2]) + 1
        self._inventory.boot_id = f"{self.node_id}-boot-{number}"
        self._booted_at = self.clock.now() + timedelta(seconds=down_seconds / 2)

    def left_attempts(self) -> list[str]:
        """Give the attempts that are still on the disk."""
        return sorted(path.name for path in (self.disk / "attempts").glob("*") if path.is_dir())

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the agent; it may be killed before or after that."""
        if self._is_dying:
            raise AgentKilled
        if self.universe.likely(0.004):
            if self.universe.chance.random() < 0.5:
                path.write_bytes(content)
            self.universe.sometimes("agent killed at a write to its disk")
            self.universe.note(f"{self.node_id}: killed while writing {path.name}")
            self._is_dying = True
            self.down_seconds = self.universe.between(0.0, 30.0)
            raise AgentKilled
        path.write_bytes(content)

    # The runtime, as the agent's ``Runtime`` port asks for it.

    async def launch(self, plan: LaunchPlan) -> Handle:
        await asyncio.sleep(self.universe.between(0.0, 0.5))
        if plan.name not in self.programs:
            execution = self.truth.begin(self.node_id, plan)
            self.programs[plan.name] = Program(self, plan, execution)
            self.universe.note(f"{self.node_id}: program of attempt {plan.attempt} started", plan.run_id)
            await asyncio.sleep(self.universe.between(0.0, 0.2))
        return Handle("process", plan.name)

    async def find(self, plan: LaunchPlan) -> Handle | None:
        if plan.name not in self.programs:
            return None
        self.universe.sometimes("program found again that was not written down")
        return Handle("process", plan.name)

    async def wait(self, handle: Handle, plan: LaunchPlan) -> Exit:
        program = self.programs[handle.id]
        await program.ended.wait()
        ended = program.execution.exit
        if ended is None:
            return Exit(None, 0, False, self.clock.now(), detail="nobody saw the end", is_known=False)
        return ended

    async def signal(self, handle: Handle, signal_number: int) -> None:
        self.programs[handle.id].take_signal(signal_number)

    async def kill(self, handle: Handle) -> None:
        self.programs[handle.id].take_signal(signal.SIGKILL)

    async def remove(self, handle: Handle, plan: LaunchPlan) -> None:
        program = self.programs[handle.id]
        while program.is_running:
            program.take_signal(signal.SIGKILL)
            await asyncio.sleep(0.3)

    async def pids(self, handle: Handle) -> list[int]:
        return []

    # The agent.

    async def _live(self) -> None:
        executor = SimpleNamespace(runtime=self)

        async def choose(_: Executor.ValueType) -> Executor.ValueType:
            return Executor.EXECUTOR_PROCESS

        async def get(_: Executor.ValueType) -> object:
            return executor

        node = Node(
            node_id=self.node_id,
            boot_id=self._inventory.boot_id,
            booted_at=self._booted_at,
            inventory=self._inventory,
            executors=cast("Any", SimpleNamespace(choose=choose, get=get)),
            artifact_client=cast("Any", self.universe),
            cache=cast("Any", None),
            package_lists=PackageLists(cast("Any", self.universe)),
            sampling=cast("Any", NoReadings(self._inventory)),
            clock=self.clock,
        )
        telemetry = SimpleNamespace(spool=SimpleNamespace(marks={}), universe=self.universe)
        attempts = Attempts(node, AttemptStore(self.disk / "attempts"), cast("Any", telemetry))
        uplink = Uplink(self.node_id, "token", self.node_id, self._look, attempts)
        attempts.reports_changed = uplink.reports_changed
        attempts.held_changed = uplink.held_changed
        ready = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(attempts.run(ready))
            await ready.wait()
            group.create_task(uplink.run())

    async def _look(self) -> NodeInventory:
        await asyncio.sleep(self.universe.between(0.0, 0.2))
        seen = NodeInventory()
        seen.CopyFrom(self._inventory)
        return seen

    def _look_at_death(self, life: asyncio.Task[None]) -> None:
        error = None if life.cancelled() else life.exception()
        if life.cancelled() or (error is not None and _is_killing(error)):
            return
        self.universe.never(f"the agent of {self.node_id} died by itself: {error!r}")


def an_inventory(node_id: str, gpu_count: int, slot_count: int) -> NodeInventory:
    gpus = [GpuDevice(uuid=f"GPU-{node_id}-{index}", index=index, model="H200") for index in range(gpu_count)]
    return NodeInventory(
        hostname=node_id, boot_id=f"{node_id}-boot-1", gpus=gpus, slot_count=slot_count, agent_version="1"
    )


class SimAttempt(Attempt):
    """The agent's real attempt, but for what fetches code and inputs and makes environments."""

    async def _prepare(self, executor: ExecutorOnNode) -> LaunchPlan:
        universe = cast("Universe", self._node.artifact_client)
        plan = self._plan
        make_folders(plan)
        await asyncio.sleep(universe.chance.choice((0.0, 0.1, 1.0, universe.between(0.0, 20.0))))
        if universe.likely(0.05):
            raise RunyardError("no interpreter", code="ENVIRONMENT_UNAVAILABLE")
        self.record.save_prepared(AttemptStarted(hardware=await self._node.hardware(self._grant.gpu_uuids)))
        self._report(Environment(executor=Executor.EXECUTOR_PROCESS, interpreter="CPython"))
        await self._lease.wait()
        return plan


async def _collect(of: OutputsOf) -> list[OutputFile]:
    universe = cast("Universe", of.artifact_client)
    await asyncio.sleep(universe.between(0.0, 5.0))
    stored = [OutputFile(path="model.pt", sha256="a" * 64, size_bytes=1)]
    if universe.likely(0.03):
        raise OutputsIncomplete(["model.pt: the store is full"], [])
    return stored


@contextmanager
def machines_in_place_of_real_ones(machines: dict[Path, Machine]) -> Iterator[None]:
    """Lead the agent's disk, telemetry and transfers to the simulated machines."""

    def write(path: Path, content: bytes, **_: object) -> None:
        next(machine for disk, machine in machines.items() if path.is_relative_to(disk)).write(path, content)

    with ExitStack() as patches:
        for module, name, replacement in (
            (attempt_store, "write_atomically", write),
            (attempt_store, "sync_folder", lambda _: None),
            (attempt_module, "LogReader", Silence),
            (attempt_module, "LiveOutputs", Silence),
            (collecting, "collect", _collect),
            (loop, "AttemptTelemetry", Silence),
            (loop, "Attempt", SimAttempt),
        ):
            patches.enter_context(mock.patch.object(module, name, replacement))
        yield


def _is_killing(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(AgentKilled) is not None
    return isinstance(error, AgentKilled)
