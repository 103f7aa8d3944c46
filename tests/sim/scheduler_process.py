"""A scheduler process: all of its real stations over the simulated log, network and read model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import grpc

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard_core.errors import RunyardError, Unavailable
from runyard_core.task_group import TaskGroup
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.memory import MemoryEventLog
from runyard_scheduler.agents import AgentServicer
from runyard_scheduler.clock_watcher import ClockWatcher
from runyard_scheduler.handlers import Handlers
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.node_handlers import NodeHandlers
from runyard_scheduler.planner import Planner
from runyard_scheduler.process.deadlines import Limits
from runyard_scheduler.servicer import SchedulerServicer
from runyard_scheduler.sessions import Sessions
from runyard_scheduler.watch import Watches
from runyard_servicekit.auth import Caller, set_current_caller
from tests.sim.network import Connection, Network, end_of
from tests.sim.read_model import MemoryProjector, MemoryQueries, Tables
from tests.sim.universe import Universe
from tests.sim.unreliable_log import LogWeather, Observer, UnreliableLog

ResultT = TypeVar("ResultT")
ServicerContext = grpc.aio.ServicerContext[Any, Any]

STOP_SECONDS_MAX = 30.0
"""A process whose every task was cancelled ends well within this."""

ALICE = Caller(Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"), frozenset({"client"}))


class SchedulerProcess:
    """One life of the scheduler, from start to crash."""

    def __init__(
        self,
        universe: Universe,
        memory: MemoryEventLog,
        weather: LogWeather,
        tables: Tables,
        network: Network,
        observe: Observer,
        settings: Settings,
    ) -> None:
        self._universe = universe
        self._weather = weather
        self._tables = tables
        self._network = network
        self._settings = settings
        self._doorbell = Doorbell()
        self._log = UnreliableLog(memory, weather, universe, observe, self.crash)
        self._serving: set[asyncio.Task[Any]] = set()
        self._connections: list[Connection] = []
        self._life: asyncio.Task[None] | None = None
        self._agents: AgentServicer | None = None
        self.ledger: Ledger | None = None
        self.scheduler: SchedulerServicer | None = None

    def start(self) -> asyncio.Task[None]:
        self._life = asyncio.get_running_loop().create_task(self._run())
        return self._life

    def crash(self) -> None:
        """Kill -9: nothing more of this life reaches the log or the network."""
        if self._life is not None and not self._life.done():
            self._universe.note("scheduler killed")
            self._close()
            self._life.cancel()
            asyncio.get_running_loop().call_later(STOP_SECONDS_MAX, self._look_whether_stopped)

    def _look_whether_stopped(self) -> None:
        stopped = self._life is not None and self._life.done()
        self._universe.always(stopped, "a scheduler that was cancelled goes on")

    def accept(self, connection: Connection) -> None:
        """Serve an agent's stream."""
        self._connections.append(connection)
        connection.serving = self._spawn(self._serve(connection))

    async def call(self, make: Callable[[SchedulerServicer, ServicerContext], Awaitable[ResultT]]) -> ResultT:
        """Serve a client's request; the process may die meanwhile."""
        if self.scheduler is None:
            raise Unavailable("connection refused")
        set_current_caller(ALICE)
        task = self._spawn(make(self.scheduler, cast("ServicerContext", None)))
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and (caller is None or not caller.cancelling()):
                raise Unavailable("connection reset") from None
            task.cancel()
            raise

    def _spawn(self, work: Awaitable[ResultT]) -> asyncio.Task[ResultT]:
        task = asyncio.get_running_loop().create_task(cast("Any", work))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return cast("asyncio.Task[ResultT]", task)

    async def _run(self) -> None:
        try:
            await self._live()
        finally:
            self._close()

    async def _live(self) -> None:
        universe, clock, settings = self._universe, self._universe.clock, self._settings
        ledger = Ledger(self._log, self._tables.world(), self._doorbell)
        await ledger.catch_up()
        sessions = Sessions(ledger.world, clock, settings.unreachable_seconds)
        leases = LeaseHandlers(ledger, clock, round(settings.lease_seconds * 1000))
        nodes = NodeHandlers(ledger, clock)
        planner = Planner(ledger, sessions, leases, clock)
        limits = Limits(settings.unreachable_seconds, settings.requeue_margin_seconds)
        watcher = ClockWatcher(sessions, leases, nodes, clock, limits)
        projector = MemoryProjector(self._tables, self._log, self._doorbell, universe)
        queries = MemoryQueries(self._tables, projector, self._log)
        watches = Watches(ledger, clock, self._doorbell)
        async with TaskGroup() as tasks:
            self._agents = AgentServicer(
                ledger, sessions, leases, nodes, tasks, round(settings.heartbeat_seconds * 1000)
            )
            self.scheduler = SchedulerServicer(
                ledger, Handlers(ledger, clock), queries, watches, planner, sessions
            )
            self.ledger = ledger
            for loop in (ledger.keep_following, projector.run, planner.run, watcher.run):
                tasks.create_task(loop())
            self._weather.doorbells.append(self._doorbell)
            self._network.server = self
            await asyncio.Event().wait()

    def _close(self) -> None:
        if self._network.server is self:
            self._network.server = None
        if self._doorbell in self._weather.doorbells:
            self._weather.doorbells.remove(self._doorbell)
        for connection in self._connections:
            connection.lost_by_server()
        self._connections.clear()
        for task in list(self._serving):
            task.cancel()

    async def _serve(self, connection: Connection) -> None:
        agent = Actor(kind=ActorKind.ACTOR_KIND_AGENT, id=connection.node_id)
        set_current_caller(Caller(agent, frozenset({"agent"})))
        assert self._agents is not None
        error: RunyardError | None = None
        try:
            context = cast("ServicerContext", None)
            async for message in self._agents.Attach(connection.incoming(), context):
                connection.send_down(message)
        except RunyardError as raised:
            error = raised
            self._universe.sometimes(f"stream ended: {raised.code}")
        connection.send_down(end_of(error))


class Settings:
    """Lengths of time of one seed's scheduler."""

    def __init__(self, universe: Universe) -> None:
        chance = universe.chance
        self.heartbeat_seconds = 2.0
        self.unreachable_seconds = chance.choice((6.0, 10.0))
        self.lease_seconds = chance.choice((12.0, 30.0, 60.0))
        self.requeue_margin_seconds = chance.choice((5.0, 15.0))
