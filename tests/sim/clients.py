"""Clients: they submit and stop runs, lose answers, give up waiting and ask the same again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from runyard.run.v1.scheduler_service_pb2 import StopRunRequest, SubmitRunRequest
from runyard.run.v1.types_pb2 import OnLost, Resources, RunSpec
from runyard_contracts.ids import uuid7
from runyard_core.errors import Conflict, DeadlineExceeded, NotFound, Rejected, Unavailable
from runyard_scheduler.servicer import SchedulerServicer
from tests.sim.scheduler_process import SchedulerProcess, ServicerContext
from tests.sim.universe import Universe

ResultT = TypeVar("ResultT")

PROJECTS = ("digits", "letters")


@dataclass(slots=True)
class Clients:
    """What clients asked for and were told."""

    universe: Universe
    scheduler: Callable[[], SchedulerProcess | None]
    gpu_count_max: int
    accepted: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Title (one for each request) -> run id and number that the client was told."""

    async def submit(self, title: str) -> None:
        """Submit a run; perhaps stop it later."""
        chance = self.universe.chance
        spec = RunSpec(
            step="train",
            command_lines=["python train.py"],
            resources=Resources(gpu_count=chance.choice((0, 0, 1, 1, 1, 2, self.gpu_count_max))),
            on_lost=chance.choice((OnLost.ON_LOST_WAIT, OnLost.ON_LOST_REQUEUE, OnLost.ON_LOST_UNSPECIFIED)),
            attempts_max=chance.choice((0, 0, 1, 2)),
            priority=chance.choice((0, 0, 0, 5, -5)),
            stop_grace_seconds=chance.choice((0, 2, 10)),
        )
        request = SubmitRunRequest(
            request_id=uuid7(), project=chance.choice(PROJECTS), spec=spec, title=title
        )
        try:
            answer = await self._until_answered(lambda service, context: service.SubmitRun(request, context))
        except Rejected:
            self.universe.sometimes("submit rejected")
            return
        self.accepted[title] = (answer.run.run_id, answer.run.number)
        if self.universe.likely(0.3):
            await asyncio.sleep(chance.choice((0.0, 1.0, self.universe.between(0.0, 100.0))))
            await self._stop(answer.run.run_id)

    async def _stop(self, run_id: str) -> None:
        request = StopRunRequest(request_id=uuid7(), name=run_id, reason="enough")
        self.universe.note("client asks for a stop", run_id)
        answer = await self._until_answered(
            lambda service, context: service.StopRun(request, context), run_id
        )
        self.universe.always(answer.run.run_id == run_id, f"stopped {answer.run.run_id} instead", run_id)

    async def _until_answered(
        self, make: Callable[[SchedulerServicer, ServicerContext], Awaitable[ResultT]], about: str = ""
    ) -> ResultT:
        """Ask, and ask the same again until there is an answer."""
        while True:
            try:
                async with asyncio.timeout(self.universe.chance.choice((0.05, 1.0, 5.0, 5.0))):
                    await asyncio.sleep(self.universe.between(0.0, 0.05))
                    scheduler = self.scheduler()
                    if scheduler is None:
                        raise Unavailable("connection refused")
                    answer = await scheduler.call(make)
            except TimeoutError:
                self.universe.sometimes("client gave up waiting")
            except (Unavailable, Conflict, DeadlineExceeded):
                pass
            except NotFound as error:
                self.universe.never(f"what a client was told is gone: {error.message}", about)
            else:
                if not self.universe.likely(0.1):
                    return answer
                self.universe.sometimes("answer to a client lost")
            await asyncio.sleep(self.universe.between(0.1, 2.0))
