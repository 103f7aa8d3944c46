"""The invariants: looked at with every append, and once more when everything has come to rest."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from google.protobuf.message import Message

from runyard.cost.v1.types_pb2 import PriceUnit
from runyard.event.v1.envelope_pb2 import Envelope
from runyard.node.v1 import events_pb2 as node_ev
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Cause, CauseCode, OnLost, Outcome, RunState
from runyard_agent.runtime import EndedBy, Exit
from runyard_contracts.envelope import unwrap
from runyard_contracts.ids import stream_category
from runyard_cost.tables import LEASES, LeaseRow
from runyard_eventlog.port import AppendCommand, Appended
from runyard_replay.pricing.leases import HeldGpu, Lease, price_node
from runyard_replay.pricing.price_book import PriceBook, PriceLine
from runyard_scheduler.domain.causes import outcome_of
from runyard_scheduler.domain.run_state import Run, evolve
from runyard_scheduler.process.world import World
from tests.sim.causes import CauseWatch
from tests.sim.read_model import Tables
from tests.sim.truth import Execution, Truth
from tests.sim.universe import Universe

_MICRO_USD_PER_HOUR = 3_600_000_000
"""One cent a second; so that a millisecond of a GPU costs a whole number."""

_SOMETIMES: dict[type[Message], str] = {
    ev.RunUnreachable: "run unreachable",
    ev.RunReachableAgain: "run reachable again",
    ev.RunRequeued: "run requeued",
    ev.RunStaleReportReceived: "stale report recorded",
    ev.RunAttemptFailed: "attempt failed",
    node_ev.NodeDetached: "node detached",
}


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a run, for the report of a failure."""

    position: int
    at_seconds: float
    message: Message


@dataclass(slots=True)
class RunStory:
    """A run, folded by the checker for itself."""

    run: Run = field(default_factory=Run)
    told: list[Told] = field(default_factory=list)

    def last(self, kind: type[Message]) -> Message | None:
        return next((told.message for told in reversed(self.told) if isinstance(told.message, kind)), None)

    def gave_up(self, attempt: int) -> bool:
        """Say whether an attempt was given up, so that the run was queued again."""
        again = self.last(ev.RunRequeued)
        return isinstance(again, ev.RunRequeued) and again.next_attempt == attempt + 1


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation that is live."""

    node_id: str
    run_id: str
    gpu_uuids: tuple[str, ...]
    reserved_at_ms: int


class Checker:
    """Watches the log itself, below every process."""

    def __init__(self, universe: Universe, truth: Truth) -> None:
        self._universe = universe
        self._truth = truth
        self._causes = CauseWatch(universe)
        self._position = 0
        self._held: dict[str, Held] = {}
        self._released: dict[str, tuple[Held, int]] = {}
        self._numbers: dict[str, list[int]] = defaultdict(list)
        self.stories: dict[str, RunStory] = defaultdict(RunStory)

    def observe(self, command: AppendCommand, appended: Appended) -> None:
        """Look at what one command has just appended."""
        positions = iter(appended.positions)
        touched: set[str] = set()
        for append in command.appends:
            for envelope in append.events:
                position = next(positions)
                self._universe.always(position == self._position + 1, f"hole before position {position}")
                self._position = position
                self._causes.look(envelope)
                message = unwrap(envelope)
                kind = _SOMETIMES.get(type(message))
                if kind is not None:
                    self._universe.sometimes(kind)
                match stream_category(append.stream):
                    case "run":
                        touched.add(envelope.stream.removeprefix("run-"))
                        self._run_event(envelope.stream.removeprefix("run-"), message, position)
                    case "node":
                        touched |= self._node_event(message, envelope)
                    case _:
                        self._project_event(message)
        for run_id in touched:
            self._leases_agree(run_id)

    def _run_event(self, run_id: str, message: Message, position: int) -> None:
        story = self.stories[run_id]
        before = story.run
        story.told.append(Told(position, self._universe.clock.monotonic_seconds(), message))
        stale = isinstance(message, ev.RunStaleReportReceived)
        after = evolve(before, message)
        self._universe.always(
            before.phase != RunState.RUN_STATE_FINISHED or stale, f"{message!r} after the end", run_id
        )
        match message:
            case ev.RunLeaseGranted():
                self._universe.always(
                    (message.epoch, message.attempt) == (before.epoch + 1, before.attempt + 1),
                    f"lease of epoch {message.epoch} after {before.epoch}",
                    run_id,
                )
            case ev.RunStaleReportReceived():
                self._universe.always(after == before, "a stale report changed the run", run_id)
            case ev.RunLeaseExpired():
                requeues = message.on_lost == OnLost.ON_LOST_REQUEUE
                self._universe.sometimes(f"lease expired, {'requeue' if requeues else 'wait'}")
            case ev.RunStopRequested():
                self._note_stop(before)
            case ev.RunFinished():
                self._universe.sometimes(f"run finished: {CauseCode.Name(message.cause.code)}")
                self._universe.always(
                    message.outcome == outcome_of(message.cause.code), "outcome is not its cause's", run_id
                )
            case _:
                pass
        epoch = getattr(message, "epoch", after.epoch)
        never_leased = isinstance(message, ev.RunFinished) and message.attempt == 0
        self._universe.always(
            stale or never_leased or epoch == after.epoch,
            f"epoch {epoch} changed a run at {after.epoch}",
            run_id,
        )
        story.run = after

    def _note_stop(self, run: Run) -> None:
        lease = run.live_lease
        if lease is None:
            return
        if lease.expired:
            self._universe.sometimes("stop while the lease was expired")
        elif not lease.reachable:
            self._universe.sometimes("stop while unreachable")
        elif not lease.started:
            self._universe.sometimes("stop while starting")
        else:
            self._universe.sometimes("stop while running")

    def _node_event(self, message: Message, envelope: Envelope) -> set[str]:
        match message:
            case node_ev.NodeGpusReserved():
                held = Held(
                    message.node_id, message.run_id, tuple(message.gpu_uuids), _milliseconds(envelope)
                )
                for lease_id, other in self._held.items():
                    self._universe.always(
                        not set(other.gpu_uuids) & set(held.gpu_uuids),
                        f"leases {lease_id} and {message.lease_id} hold the same GPU",
                        message.run_id,
                    )
                known = message.lease_id in self._held or message.lease_id in self._released
                self._universe.always(not known, f"lease {message.lease_id} reserved twice", message.run_id)
                self._held[message.lease_id] = held
                return {message.run_id}
            case node_ev.NodeGpusReleased():
                released = self._held.pop(message.lease_id, None)
                self._universe.always(
                    released is not None, f"lease {message.lease_id} released, not held", message.run_id
                )
                if released is not None:
                    self._released[message.lease_id] = (released, _milliseconds(envelope))
                return {message.run_id}
            case _:
                return set()

    def _project_event(self, message: Message) -> None:
        if isinstance(message, ev.ProjectRunNumbered):
            numbers = self._numbers[message.project]
            numbers.append(message.number)
            self._universe.always(
                numbers[-1] == len(numbers), f"run {numbers[-1]} follows {len(numbers) - 1}", message.run_id
            )

    def _leases_agree(self, run_id: str) -> None:
        lease = self.stories[run_id].run.live_lease
        of_run = {lease.lease_id} if lease is not None and lease.holds_gpus else set()
        of_nodes = {lease_id for lease_id, held in self._held.items() if held.run_id == run_id}
        self._universe.always(
            of_run == of_nodes, f"the run holds {of_run or 'nothing'}, nodes {of_nodes or 'nothing'}", run_id
        )

    # At rest.

    def unfinished(self) -> list[str]:
        return [
            run_id
            for run_id, story in self.stories.items()
            if story.run.phase not in (RunState.RUN_STATE_FINISHED, RunState.RUN_STATE_UNSPECIFIED)
        ]

    def check_ends(self) -> None:
        """Each run's record is what its programs did."""
        self._universe.always(not self._held, f"leases held at rest: {sorted(self._held)}")
        for run_id, story in self.stories.items():
            self._check_end(run_id, story)

    def _check_end(self, run_id: str, story: RunStory) -> None:
        finished = story.last(ev.RunFinished)
        if not isinstance(finished, ev.RunFinished):
            return
        executions = self._truth.of(run_id, finished.attempt)
        if story.gave_up(finished.attempt):
            # It waited for another attempt, and the run was stopped before it got one.
            stopped = finished.cause.code == CauseCode.CAUSE_CODE_STOPPED_BY_USER
            self._universe.always(stopped, f"ended while it was queued: {finished.cause}", run_id)
            return
        exited = [
            told.message
            for told in story.told
            if isinstance(told.message, ev.RunAttemptExited) and told.message.attempt == finished.attempt
        ]
        if exited:
            self._check_exit(run_id, story, exited[0].cause, finished, executions)
            return
        code = finished.cause.code
        stopped = story.run.stop is not None or code == CauseCode.CAUSE_CODE_STOPPED_BY_USER
        if code == CauseCode.CAUSE_CODE_ENVIRONMENT_UNAVAILABLE:
            self._universe.always(not executions, "recorded as never started, but a program ran", run_id)
        elif code == CauseCode.CAUSE_CODE_AGENT_LOST:
            self._universe.sometimes("the last attempt was lost")
            self._universe.always(not story.run.has_attempts_left, "not tried again", run_id)
        else:
            self._universe.always(stopped, f"ended without an exit: {finished.cause}", run_id)

    def _check_exit(
        self,
        run_id: str,
        story: RunStory,
        exited: Cause,
        finished: ev.RunFinished,
        executions: list[Execution],
    ) -> None:
        self._universe.always(
            len(executions) == 1, f"attempt {finished.attempt} had {len(executions)} executions", run_id
        )
        if len(executions) != 1:
            return
        execution = executions[0]
        self._universe.always(
            execution.ended_at_seconds is not None, "recorded as exited, but the program runs", run_id
        )
        expected = _expected(execution.exit)
        if story.run.stop is not None:
            expected = (story.run.stop.cause_code, *expected[1:])
        recorded = (exited.code, exited.exit_code if exited.HasField("exit_code") else None, exited.signal)
        self._universe.always(
            recorded == expected, f"the program did {expected}, recorded is {recorded}", run_id
        )
        incomplete = finished.cause.code == CauseCode.CAUSE_CODE_OUTPUT_UNAVAILABLE
        self._universe.always(
            incomplete or finished.cause.code == exited.code,
            f"exited for {exited}, finished for {finished.cause}",
            run_id,
        )
        if finished.outcome == Outcome.OUTCOME_SUCCEEDED:
            ended = execution.exit
            self._universe.always(ended is not None and ended.exit_code == 0, "did not succeed", run_id)

    def check_cost(self, tables: Tables) -> None:
        """The intervals that are paid for are those of the leases, to the millisecond."""
        rows: list[LeaseRow] = tables.current(LEASES.name)
        paid = {row.lease_id: (row.reserved_at_ms, row.released_at_ms) for row in rows}
        held = {
            lease_id: (held.reserved_at_ms, end_ms) for lease_id, (held, end_ms) in self._released.items()
        }
        self._universe.always(paid == held, "cost intervals are not the leases' intervals")
        line = PriceLine("price", "", "", PriceUnit.PRICE_UNIT_GPU_HOUR, _MICRO_USD_PER_HOUR, 0, 1, "event")
        by_node: dict[str, list[Lease]] = defaultdict(list)
        for row in rows:
            gpus = tuple(
                HeldGpu(uuid, model) for uuid, model in zip(row.gpu_uuids, row.gpu_models, strict=True)
            )
            by_node[row.node_id].append(
                Lease(row.lease_id, row.run_id, row.attempt, row.node_id, gpus, row.reserved_at_ms,
                      row.released_at_ms, ())
            )  # fmt: skip
        book, money = PriceBook([line]), 0
        for node_id, leases in by_node.items():
            horizon_ms = max(lease.released_at_ms or 0 for lease in leases)
            priced = price_node(node_id, leases, book, horizon_ms)
            money += sum(term.micro_usd for terms in priced.values() for term in terms)
        gpu_ms = sum(
            (end - held.reserved_at_ms) * len(held.gpu_uuids) for held, end in self._released.values()
        )
        rate = _MICRO_USD_PER_HOUR // 3_600_000
        self._universe.always(money == gpu_ms * rate, f"cost {money} is not {rate} x {gpu_ms} GPU-ms")

    def check_world(self, world: World, fresh: World, whose: str) -> None:
        """Two worlds that must show the same."""
        for run_id in {entry.run.run_id for entry in (*world.runs(), *fresh.runs())}:
            mine, other = world.run(run_id), fresh.run(run_id)
            self._universe.always(mine == other, f"{whose}: {mine} is not {other}", run_id)
        for entry in fresh.nodes():
            mine_node = world.node(entry.node.node_id)
            self._universe.always(mine_node == entry, f"{whose}: {mine_node} is not {entry}")
        for project in self._numbers:
            same = world.project(project) == fresh.project(project)
            self._universe.always(same, f"{whose}: project {project} differs")
        queues = ([list(runs) for _, runs in sorted(one.queue.items())] for one in (world, fresh))
        self._universe.always(next(queues) == next(queues), f"{whose}: the queues differ")


def _expected(ended: Exit | None) -> tuple[CauseCode.ValueType, int | None, int]:
    if ended is None:
        return CauseCode.CAUSE_CODE_NODE_REBOOT, None, 0
    if ended.ended_by == EndedBy.LEASE_EXPIRY:
        return CauseCode.CAUSE_CODE_AGENT_LOST, ended.exit_code, ended.signal
    code = CauseCode.CAUSE_CODE_SUCCEEDED if ended.exit_code == 0 else CauseCode.CAUSE_CODE_USER_ERROR
    return code, ended.exit_code, ended.signal


def _milliseconds(envelope: Envelope) -> int:
    return envelope.occurred_at.seconds * 1_000 + envelope.occurred_at.nanos // 1_000_000
