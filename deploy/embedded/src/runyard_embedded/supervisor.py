"""Starts the members of a plan in order, restarts what dies, and stops everything in reverse."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace

from runyard_core.errors import RunyardError
from runyard_core.task_group import TaskGroup
from runyard_embedded.plan import Member, Plan
from runyard_embedded.state import Phase, ProcessState, YardState, now_text
from runyard_engines import EngineFailed
from runyard_engines.process import started

READY_SECONDS_MAX = 60.0
RESTARTS_MAX = 3
"""In RESTART_WINDOW_SECONDS; one more, and the process is left down."""
RESTART_WINDOW_SECONDS = 60.0
BACKOFF_SECONDS = (0.1, 0.5, 2.0)

log = logging.getLogger("runyard.supervisor")

Publish = Callable[[YardState], None]
Prepare = Callable[[], Awaitable[None]]
Upkeep = Callable[[], Coroutine[None, None, None]]


class Supervisor:
    """The life of one yard."""

    def __init__(
        self,
        plan: Plan,
        prepare: Prepare,
        state: YardState,
        publish: Publish,
        upkeep: Sequence[Upkeep] = (),
    ) -> None:
        """Keep what to run.

        Args:
            plan: the processes.
            prepare: makes the engines ready for the services, when the engines are up.
            state: what is known so far.
            publish: is told of every change.
            upkeep: what else is done for ever while the yard is up.
        """
        self._plan = plan
        self._prepare = prepare
        self._state = state
        self._publish = publish
        self._upkeep = upkeep
        for member in plan.members:
            self._state = self._state.with_process(member.state)

    async def run(self) -> None:
        """Start, and keep everything running until cancelled; then stop.

        Raises:
            RunyardError: the start failed; what had started is stopped again.
        """
        self._set_phase(Phase.STARTING)
        try:
            await self._start(self._plan.engines)
            await self._prepare()
            await self._start(self._plan.services)
            await self._start(self._plan.agent)
            self._set_phase(Phase.UP)
            async with TaskGroup() as group:
                for member in self._plan.members:
                    group.create_task(self._watch(member))
                for keep in self._upkeep:
                    group.create_task(keep())
            await asyncio.Event().wait()  # everything was given up; whoever looks still finds us
        finally:
            self._set_phase(Phase.STOPPING)
            for stage in (self._plan.agent, self._plan.services, self._plan.engines):
                await self._stop(stage)
            self._set_phase(Phase.STOPPED)

    async def _start(self, stage: Sequence[Member]) -> None:
        try:
            async with TaskGroup() as group:
                for member in stage:
                    group.create_task(self._start_one(member))
        except BaseExceptionGroup as errors:
            known = errors.subgroup(RunyardError)
            if known is None:
                raise
            raise known.exceptions[0] from None

    async def _start_one(self, member: Member) -> None:
        await member.engine.start()
        self._note(member, Phase.STARTING)
        await member.engine.ready(READY_SECONDS_MAX)
        self._note(member, Phase.UP)

    async def _watch(self, member: Member) -> None:
        deaths: list[float] = []
        while True:
            code = await started(member.engine.process).wait() or 0
            reason = f"ended with {'signal' if code < 0 else 'status'} {abs(code)}"
            now = time.monotonic()
            deaths = [*(at for at in deaths if now - at < RESTART_WINDOW_SECONDS), now]
            if len(deaths) > RESTARTS_MAX:
                self._give_up(member, f"{reason}, {len(deaths)} times in {RESTART_WINDOW_SECONDS:.0f} s")
                return
            await self._start_again(member, reason, BACKOFF_SECONDS[len(deaths) - 1])

    async def _start_again(self, member: Member, reason: str, backoff_seconds: float) -> None:
        log.warning("%s %s: starting it again in %.1f s", member.engine.name, reason, backoff_seconds)
        self._note(member, Phase.RESTARTING, reason, restarted=True)
        await asyncio.sleep(backoff_seconds)  # lets what killed it pass
        try:
            await self._start_one(member)
        except EngineFailed as failure:
            # Its end is seen by the next wait, as another death.
            log.warning("%s", failure.message)
            await member.engine.stop()
        else:
            log.info("%s is up again", member.engine.name)

    def _give_up(self, member: Member, reason: str) -> None:
        lines = "\n".join(started(member.engine.process).last_lines(20))
        log.critical("%s %s: it stays down. Its last lines:\n%s", member.engine.name, reason, lines)
        self._note(member, Phase.FAILED, reason)

    async def _stop(self, stage: Sequence[Member]) -> None:
        async with TaskGroup() as group:
            for member in stage:
                group.create_task(self._stop_one(member))

    async def _stop_one(self, member: Member) -> None:
        await member.engine.stop()
        self._note(member, Phase.STOPPED)

    def _note(self, member: Member, phase: Phase, detail: str = "", *, restarted: bool = False) -> None:
        known = self._state.processes[member.engine.name]
        identity = member.engine.process.identity if member.engine.process else None
        self._set(
            replace(
                known,
                phase=phase,
                pid=identity.pid if identity else None,
                started_ticks=identity.started_ticks if identity else None,
                since=now_text(),
                restarts=known.restarts + restarted,
                detail=detail,
            )
        )

    def _set(self, process: ProcessState) -> None:
        self._state = self._state.with_process(process)
        self._publish(self._state)

    def _set_phase(self, phase: Phase) -> None:
        supervisor = replace(self._state.supervisor, phase=phase, since=now_text())
        self._state = replace(self._state, supervisor=supervisor)
        self._publish(self._state)
