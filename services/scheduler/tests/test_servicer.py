"""What clients may rely on while the read model and this process's own view are behind the log."""

from __future__ import annotations

from typing import cast

import asyncpg
import pytest
from grpc.aio import ServicerContext

from runyard.run.v1.scheduler_service_pb2 import StopRunRequest
from runyard.run.v1.types_pb2 import Outcome
from runyard_contracts.ids import Position, RunId, uuid7
from runyard_core.clock import ManualClock
from runyard_core.errors import Corrupt, InvalidInput, NotFound, Rejected
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.projector import Projector
from runyard_scheduler.handlers import Handlers
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.planner import Planner
from runyard_scheduler.process.world import World
from runyard_scheduler.queries import Queries
from runyard_scheduler.servicer import SchedulerServicer
from runyard_scheduler.sessions import Sessions
from runyard_scheduler.watch import Watches

from .yard import a_submit

CONTEXT = cast("ServicerContext[object, object]", None)


class EmptyReadModel(Queries):
    """A read model that has seen nothing yet."""

    def __init__(self, log: MemoryEventLog) -> None:
        super().__init__(cast("asyncpg.Pool", None), cast("Projector", None), log)

    async def latest(self, min_position: Position) -> Position:
        return min_position

    async def run_id(self, name: str, position: Position) -> RunId:
        raise NotFound(f"there is no run {name!r}", code="UNKNOWN_RUN")


def a_servicer(log: MemoryEventLog) -> SchedulerServicer:
    """A scheduler process that has not followed the log yet."""
    clock = ManualClock()
    ledger = Ledger(log, World())
    sessions = Sessions(ledger.world, clock, unreachable_seconds=10)
    planner = Planner(ledger, sessions, LeaseHandlers(ledger, clock, 60_000), clock)
    return SchedulerServicer(
        ledger, Handlers(ledger, clock), EmptyReadModel(log), Watches(ledger, clock), planner, sessions
    )


@pytest.mark.usefixtures("as_alice")
async def test_a_run_that_only_the_log_knows_can_be_stopped() -> None:
    log = MemoryEventLog()
    run = (await a_servicer(log).SubmitRun(a_submit(), CONTEXT)).run
    stop = StopRunRequest(request_id=uuid7(), name=run.run_id)
    assert (await a_servicer(log).StopRun(stop, CONTEXT)).run.outcome == Outcome.OUTCOME_STOPPED


@pytest.mark.usefixtures("as_alice")
async def test_a_repeated_stop_gets_its_first_answer_before_the_read_model_has_the_end() -> None:
    servicer = a_servicer(MemoryEventLog())
    run = (await servicer.SubmitRun(a_submit(), CONTEXT)).run
    stop = StopRunRequest(request_id=uuid7(), name=run.run_id)
    first = await servicer.StopRun(stop, CONTEXT)
    assert await servicer.StopRun(stop, CONTEXT) == first


@pytest.mark.usefixtures("as_alice")
async def test_a_repeated_stop_means_its_first_run_whatever_its_name_stands_for_now() -> None:
    log = MemoryEventLog()
    handlers = Handlers(Ledger(log, World()), ManualClock())
    first, second = [(await handlers.submit(a_submit())).run for _ in range(2)]
    stop = StopRunRequest(request_id=uuid7(), name="digits#latest")
    shown = await handlers.stop(RunId(first.run_id), stop)
    assert shown.run.run_id == first.run_id
    assert await handlers.stop(RunId(second.run_id), stop) == shown


@pytest.mark.usefixtures("as_alice")
async def test_a_reason_that_must_not_be_kept_is_refused_and_the_run_goes_on() -> None:
    async def refuse(project: str, content: bytes) -> None:
        if project == "digits" and b"hunter2" in content:
            raise Rejected("it holds a secret", code="SECRET_IN_REQUEST")

    handlers = Handlers(Ledger(MemoryEventLog(), World()), ManualClock(), refuse)
    run_id = RunId((await handlers.submit(a_submit())).run.run_id)
    for reason, refused in (("it printed hunter2", Rejected), ("a\0b", InvalidInput)):
        with pytest.raises(refused):
            await handlers.stop(run_id, StopRunRequest(request_id=uuid7(), reason=reason))
    stop = StopRunRequest(request_id=uuid7(), reason="enough")
    assert (await handlers.stop(run_id, stop)).run.outcome == Outcome.OUTCOME_STOPPED


@pytest.mark.usefixtures("as_alice")
async def test_a_run_can_be_stopped_where_secrets_cannot_be_opened() -> None:
    async def refuse(project: str, content: bytes) -> None:
        if content == b"enough":
            raise Corrupt(f"the key of {project} is another one")

    handlers = Handlers(Ledger(MemoryEventLog(), World()), ManualClock(), refuse)
    run_id = RunId((await handlers.submit(a_submit())).run.run_id)
    stop = StopRunRequest(request_id=uuid7(), reason="enough")
    assert (await handlers.stop(run_id, stop)).run.outcome == Outcome.OUTCOME_STOPPED


@pytest.mark.usefixtures("as_alice")
@pytest.mark.parametrize(
    "name", ["019b76db-5c3a-7e8f-9a4b-0123456789ab", "019b76db", f"{'p' * 30}#12345", "no such run"]
)
async def test_a_run_that_the_log_does_not_know_cannot_be_stopped(name: str) -> None:
    with pytest.raises(NotFound):
        await a_servicer(MemoryEventLog()).StopRun(StopRunRequest(request_id=uuid7(), name=name), CONTEXT)
