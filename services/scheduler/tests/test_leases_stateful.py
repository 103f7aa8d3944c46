"""Placement, leases and restarts against whatever agents, clients and time may do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runyard.agent.v1.agent_service_pb2 import (
    AttachRequest,
    AttachResponse,
    LeaseRenewal,
)
from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Lane
from runyard.run.v1.scheduler_service_pb2 import StopRunRequest
from runyard.run.v1.types_pb2 import CauseCode, OnLost, RunState
from runyard_contracts.ids import NodeId, Position, RunId, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import ManualClock
from runyard_core.errors import Conflict
from runyard_eventlog.memory import MemoryEventLog
from runyard_scheduler.clock_watcher import ClockWatcher
from runyard_scheduler.conversation import Conversation
from runyard_scheduler.fencing import judge
from runyard_scheduler.handlers import Handlers
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.node_handlers import NodeHandlers
from runyard_scheduler.planner import Planner
from runyard_scheduler.process.deadlines import Limits
from runyard_scheduler.process.world import World
from runyard_scheduler.sessions import Session, Sessions
from runyard_servicekit.auth import Caller, set_current_caller

from .lease_machines import Attempt, Machine, Tables
from .yard import a_spec, a_submit, an_inventory, started

NODE_IDS = (NodeId("node-1"), NodeId("node-2"))
LEASE_SECONDS = 60.0
LIMITS = Limits(unreachable_seconds=10, requeue_margin_seconds=15)
ROUNDS_MAX = 200
Result = TypeVar("Result")


class Yard(RuleBasedStateMachine):
    """Two machines with two GPUs, clients, and a scheduler that may be restarted at any time."""

    @initialize()
    def begin(self) -> None:
        set_current_caller(Caller(Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"), frozenset({"client"})))
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.log = MemoryEventLog()
        self.tables, self.newest_tables = Tables(), Tables()
        self.machines = {node_id: Machine({}) for node_id in NODE_IDS}
        self.accepted: list[RunId] = []
        self.start(World())
        for node_id in NODE_IDS:
            self.attach(node_id)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def start(self, world: World) -> None:
        for machine in self.machines.values():
            machine.session = machine.conversation = None
        self.ledger = Ledger(self.log, world)
        self.run(self.ledger.catch_up())
        self.sessions = Sessions(self.ledger.world, self.clock, LIMITS.unreachable_seconds)
        self.leases = LeaseHandlers(self.ledger, self.clock, round(LEASE_SECONDS * 1000))
        self.nodes = NodeHandlers(self.ledger, self.clock)
        self.handlers = Handlers(self.ledger, self.clock)
        self.planner = Planner(self.ledger, self.sessions, self.leases, self.clock)
        self.watcher = ClockWatcher(self.sessions, self.leases, self.nodes, self.clock, LIMITS)
        self.let_time_pass(0)

    @rule(
        gpu_count=st.integers(0, 2),
        requeues=st.booleans(),
        attempts_max=st.integers(0, 2),
        priority=st.integers(0, 1),
    )
    def submit(self, gpu_count: int, requeues: bool, attempts_max: int, priority: int) -> None:
        on_lost = OnLost.ON_LOST_REQUEUE if requeues else OnLost.ON_LOST_WAIT
        spec = a_spec(gpu_count, on_lost=on_lost, attempts_max=attempts_max, priority=priority)
        self.accepted.append(RunId(self.run(self.handlers.submit(a_submit(spec=spec))).run.run_id))
        self.settle()

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.accepted))
        self.run(self.handlers.stop(run_id, StopRunRequest(request_id=uuid7(), name=run_id)))
        entry = self.ledger.world.run(run_id)
        if entry is not None and entry.run.live_lease is not None:
            self.sessions.send_stop(entry, entry.run.live_lease)
        self.settle()

    @rule(node_id=st.sampled_from(NODE_IDS))
    def attach(self, node_id: NodeId) -> None:
        machine = self.machines[node_id]
        self.run(self._attach(node_id, machine))
        self.settle()

    async def _attach(self, node_id: NodeId, machine: Machine) -> None:
        await self.nodes.attach(node_id, an_inventory())
        judged = await judge(self.ledger, node_id, machine.held())
        machine.session = Session(node_id)
        machine.conversation = Conversation(
            machine.session, an_inventory(), self.ledger, self.sessions, self.leases, self.nodes
        )
        self.sessions.open(machine.session, replaced_by=Conflict("attached again"))
        machine.conversation.begin(machine.held(), judged)
        for fenced in judged.fenced:
            machine.attempts[fenced.lease_id].end(CauseCode.CAUSE_CODE_AGENT_LOST)

    @rule(node_id=st.sampled_from(NODE_IDS), delivers=st.booleans())
    def break_stream(self, node_id: NodeId, delivers: bool) -> None:
        machine = self.machines[node_id]
        if machine.session is not None:
            if delivers:
                self.receive(machine)
            self.sessions.close(machine.session)
            machine.session = machine.conversation = None

    @rule(node_id=st.sampled_from(NODE_IDS))
    def renew(self, node_id: NodeId) -> None:
        self.say(self.machines[node_id], self.renewal(node_id))
        self.settle()

    def renewal(self, node_id: NodeId) -> AttachRequest:
        return AttachRequest(lease_renewal=LeaseRenewal(held_attempts=self.machines[node_id].held()))

    @rule(node_id=st.sampled_from(NODE_IDS), reports=st.booleans())
    def start_programs(self, node_id: NodeId, reports: bool) -> None:
        for attempt in self.machines[node_id].attempts.values():
            attempt.reports.append(started(attempt.grant))
        if reports:
            self.report(node_id)

    @rule(node_id=st.sampled_from(NODE_IDS), reports=st.booleans())
    def end_programs(self, node_id: NodeId, reports: bool) -> None:
        for attempt in self.machines[node_id].attempts.values():
            attempt.end(CauseCode.CAUSE_CODE_USER_ERROR)
        if reports:
            self.report(node_id)

    @rule(node_id=st.sampled_from(NODE_IDS))
    def report(self, node_id: NodeId) -> None:
        machine = self.machines[node_id]
        if machine.session is None:
            return
        for lease_id, attempt in list(machine.attempts.items()):
            for report in attempt.reports:
                self.say(machine, AttachRequest(report=report))
            attempt.reports = []
            if not attempt.runs:
                del machine.attempts[lease_id]
        self.settle()

    @rule(seconds=st.sampled_from([1, 5, 9, 20, 61, 90]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        now = self.clock.monotonic_seconds()
        for machine in self.machines.values():
            for attempt in machine.attempts.values():
                requeues = attempt.grant.spec.on_lost == OnLost.ON_LOST_REQUEUE
                if requeues and now - attempt.renewed_at_seconds >= LEASE_SECONDS:
                    attempt.end(CauseCode.CAUSE_CODE_AGENT_LOST)
        while self.run(self.watcher.record_due()):
            pass
        self.settle()

    @rule(share=st.integers(0, 4))
    def project(self, share: int) -> None:
        events = self.events_after(self.tables.position)
        self.tables.apply(events[: len(events) * share // 4])

    @rule()
    def follow_the_log(self) -> None:
        """Hear once more of what this scheduler appended itself."""
        self.run(self.ledger.catch_up())

    @rule()
    def restart(self) -> None:
        self.start(self.tables.world())

    def say(self, machine: Machine, request: AttachRequest) -> None:
        conversation = machine.conversation
        if conversation is not None:
            self.run(conversation._take(request))

    def settle(self) -> None:
        """Do what loops would do: record what was said, plan, deliver."""
        for _ in range(3):
            for machine in self.machines.values():
                conversation = machine.conversation
                while conversation is not None and not conversation._jobs.empty():
                    self.run(_do(conversation))
            self.run(self.planner.plan_once())
            for machine in self.machines.values():
                self.receive(machine)

    def receive(self, machine: Machine) -> None:
        now = self.clock.monotonic_seconds()
        for message in _sent(machine.session):
            match message.WhichOneof("message"):
                case "lease_grant":
                    grant = message.lease_grant
                    machine.attempts.setdefault(grant.lease_id, Attempt(grant, now, []))
                case "lease_renewed":
                    for lease_id in message.lease_renewed.lease_ids:
                        if lease_id in machine.attempts:
                            machine.attempts[lease_id].renewed_at_seconds = now
                    for fenced in message.lease_renewed.fenced_attempts:
                        if fenced.lease_id in machine.attempts:
                            machine.attempts[fenced.lease_id].end(CauseCode.CAUSE_CODE_AGENT_LOST)
                case "stop_order":
                    for attempt in machine.attempts.values():
                        if attempt.grant.run_id == message.stop_order.run_id:
                            attempt.end(message.stop_order.cause_code)
                case _:
                    pass

    def events_after(self, position: Position) -> list[RecordedEvent]:
        page = self.run(self.log.read(Lane.LANE_DOMAIN, after_position=position, limit=10_000))
        return list(page.events)

    @invariant()
    def no_run_is_executed_twice_at_once(self) -> None:
        if hasattr(self, "machines"):
            running = [
                attempt.grant.run_id
                for machine in self.machines.values()
                for attempt in machine.attempts.values()
                if attempt.runs
            ]
            assert len(running) == len(set(running)), running

    @invariant()
    def a_gpu_has_at_most_one_live_lease_and_both_streams_agree(self) -> None:
        if not hasattr(self, "ledger"):
            return
        world = self.ledger.world
        holding = {
            (lease.node_id, lease.lease_id): set(lease.gpu_uuids)
            for _, lease in world.leases()
            if lease.holds_gpus
        }
        reserved = {
            (entry.node.node_id, one.lease_id): set(one.gpu_uuids)
            for entry in world.nodes()
            for one in entry.node.reservations
        }
        assert holding == reserved
        for node_id in NODE_IDS:
            gpus = [uuid for (node, _), uuids in holding.items() if node == node_id for uuid in uuids]
            assert len(gpus) == len(set(gpus))

    @invariant()
    def the_world_is_what_the_log_and_the_tables_tell(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.newest_tables.apply(self.events_after(self.newest_tables.position))
        for world in (World(), self.tables.world(), self.newest_tables.world()):
            events = self.events_after(world.position)
            world.follow(events, Position(world.position + len(events)))
            assert _content(world) == _content(self.ledger.world)

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        try:
            self.every_accepted_run_ends_when_agents_behave()
        finally:
            self.runner.close()

    def every_accepted_run_ends_when_agents_behave(self) -> None:
        for node_id in NODE_IDS:
            self.attach(node_id)
        for _ in range(ROUNDS_MAX):
            if not list(self.ledger.world.runs()):
                break
            for node_id in NODE_IDS:
                self.renew(node_id)
                self.start_programs(node_id, reports=True)
                self.end_programs(node_id, reports=True)
            self.let_time_pass(2)
        for run_id in self.accepted:
            entry = self.run(self.ledger.run(run_id))
            assert entry.run.phase == RunState.RUN_STATE_FINISHED, entry.run


async def _do(conversation: Conversation) -> None:
    await conversation._jobs.get_nowait()()


def _sent(session: Session | None) -> Iterator[AttachResponse]:
    while session is not None and not session._outbox.empty():
        message = session._outbox.get_nowait()
        if isinstance(message, AttachResponse):
            yield message


def _content(world: World) -> tuple[object, ...]:
    runs = {entry.run.run_id: entry for entry in world.runs()}
    nodes = {entry.node.node_id: entry for entry in world.nodes()}
    return runs, nodes, world.project("digits"), {key: list(waiting) for key, waiting in world.queue.items()}


# An example is a whole history: a tenth of what the profile gives to single values.
Yard.TestCase.settings = settings(max_examples=settings().max_examples // 10, stateful_step_count=25)
TestYard = Yard.TestCase
