"""One attempt from grant to last report: prepare, launch, follow, collect, finish; resumed anywhere.

Every step is written to disk before it counts (``AttemptRecord``), and every step may be done again: code,
inputs and outputs are identified by content, a launch happens at most once, reports have fixed ids.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from datetime import datetime

from runyard.agent.v1.agent_service_pb2 import AttemptExited, AttemptFinished, InputFetched
from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.types_pb2 import Cause, CauseCode, Executor
from runyard_agent import collecting, gpu_end
from runyard_agent.attempt_lease import AttemptLease
from runyard_agent.attempt_store import AttemptRecord, Fact
from runyard_agent.domain import attempt as domain
from runyard_agent.domain.attempt import Phase, Stop
from runyard_agent.domain.exit_cause import cause_of, end_sentence, reboot_cause
from runyard_agent.domain.secret_free import secret_free
from runyard_agent.executors import ExecutorOnNode
from runyard_agent.hands_on import AttemptAtHand
from runyard_agent.live_outputs import LiveOutputs
from runyard_agent.log_reader import LogReader
from runyard_agent.node import Node
from runyard_agent.output_record import put_outputs
from runyard_agent.outputs import OutputsIncomplete, OutputsOf
from runyard_agent.preparation import Preparation, launch_plan
from runyard_agent.program_calls import ProgramCalls
from runyard_agent.runtime import Exit, Handle, LaunchPlan, Runtime
from runyard_agent.sampling import Watched
from runyard_agent.stop_watch import StopWatch
from runyard_agent.telemetry import AttemptTelemetry
from runyard_agent.tracing import attempt_span
from runyard_core.counted import count_words
from runyard_core.errors import RunyardError, Unavailable
from runyard_core.retry import Backoff, Retries, Telling
from runyard_core.task_group import TaskGroup

logger = logging.getLogger(__name__)

STATUS_DETAIL_LENGTH_MAX = 1000
"""Characters; a longer status line is cut."""

_KILL_AGAIN_SECONDS = 5.0
_LAUNCH_BACKOFF = Backoff(first_seconds=2.0, seconds_max=2.0)
_FIND_BACKOFF = Backoff(first_seconds=10.0, seconds_max=10.0)
_LAUNCH_SECONDS_MAX = 120.0
_CAUSES_BY_ERROR = {
    "INPUT_UNAVAILABLE": CauseCode.CAUSE_CODE_INPUT_UNAVAILABLE,
    "IMAGE_UNAVAILABLE": CauseCode.CAUSE_CODE_IMAGE_UNAVAILABLE,
    "STOP_CONDITION_INVALID": CauseCode.CAUSE_CODE_USER_ERROR,
}


class StopOrdered(Exception):
    """A stop came before the program was started."""


class Attempt:
    """Runs one attempt."""

    def __init__(
        self,
        node: Node,
        record: AttemptRecord,
        telemetry: AttemptTelemetry,
        reports_changed: Callable[[], None],
    ) -> None:
        """Go on where the record says; ``reports_changed`` is called when there is a report to send."""
        self.record = record
        self.telemetry = telemetry
        self._node = node
        self._reports_changed = reports_changed
        self._grant = record.grant
        self._secret_names = {secret.name for secret in record.grant.secrets}
        self._stop_news = asyncio.Event()
        self._program_ended = asyncio.Event()
        self._plan = launch_plan(record.grant, record.directory)
        self._lease = AttemptLease(self._plan)
        if record.state.stop is not None:
            self._stop_news.set()

    async def run(self) -> None:
        """Do what is left to do; returns when the last report is on its way."""
        with attempt_span("attempt", self._grant):
            if self.record.state.phase is Phase.PREPARING:
                await self._start()
            if self.record.state.phase is Phase.RUNNING:
                await self._follow()
            if self.record.state.phase is Phase.COLLECTING:
                await self._collect()

    def stop(self, stop: Stop) -> None:
        """End the attempt; the first order counts."""
        changed = domain.stop_ordered(self.record.state, stop)
        if changed is not self.record.state:
            self.record.save(changed)
            self._stop_news.set()

    def renew(self, expires_at_boottime_seconds: float) -> None:
        """Let the program run until then."""
        self._lease.renew(expires_at_boottime_seconds)

    @property
    def at_hand(self) -> AttemptAtHand | None:
        """What a hands-on session needs, while the program runs."""
        state = self.record.state
        if state.phase is not Phase.RUNNING or state.handle is None or self._program_ended.is_set():
            return None
        redaction = self.telemetry.redaction
        return AttemptAtHand(state.executor, state.handle, self._plan, redaction, self._program_ended)

    async def give_up(self, reason: str) -> None:
        """End an attempt that this agent cannot prepare because of an error of its own."""
        if self.record.state.executor and await self._find_launched():
            return
        if self.record.state.phase is Phase.PREPARING:
            await self._fail(Cause(code=CauseCode.CAUSE_CODE_ENVIRONMENT_UNAVAILABLE, detail=reason))

    # From grant to program.

    async def _start(self) -> None:
        state = self.record.state
        if (failed := self.record.failed_cause()) is not None:
            # The agent died before it could let go: the GPUs may be somebody else's by now.
            await self._finish(failed, AttemptFinished())
            return
        try:
            if state.executor and await self._find_launched():
                return
            chosen = state.executor or await self._node.executors.choose(self._grant.spec.executor)
            executor = await self._node.executors.get(chosen)
            self.record.save(domain.begun(state, chosen, self._node.boot_id))
            plan = await self._prepare_unless_stopped(executor)
            handle = await self._launch(executor.runtime, plan)
            self.record.save(domain.launched(self.record.state, handle))
        except* StopOrdered:
            stop = self.record.state.stop
            assert stop is not None  # noqa: S101 - it is what raised
            await self._fail(Cause(code=stop.cause_code, detail=stop.reason))
        except* RunyardError as errors:
            error = next(_leaves(errors))
            code_of_cause = _CAUSES_BY_ERROR.get(error.code, CauseCode.CAUSE_CODE_ENVIRONMENT_UNAVAILABLE)
            await self._fail(Cause(code=code_of_cause, detail=error.message))

    async def _find_launched(self) -> bool:
        """Look for a program that was started by an agent that died before it could write that down."""
        retries = Retries("looking whether it was started", _FIND_BACKOFF, Telling(self._tell))
        while True:
            try:
                executor = await self._node.executors.get(self.record.state.executor)
                found = await executor.runtime.find(self._plan)
            except Unavailable as error:
                # As long as nobody can say, nothing may be started, and nothing be called failed.
                await retries.pause(error)
                continue
            retries.succeeded()
            if found is not None:
                self.record.save(domain.launched(self.record.state, found))
            return found is not None

    async def _prepare_unless_stopped(self, executor: ExecutorOnNode) -> LaunchPlan:
        async def watch_for_stop() -> None:
            await self._stop_news.wait()
            raise StopOrdered

        async with TaskGroup() as group:
            watching = group.create_task(watch_for_stop())
            with attempt_span("prepare", self._grant):
                plan = await self._prepare(executor)
            watching.cancel()
        return plan

    async def _prepare(self, executor: ExecutorOnNode) -> LaunchPlan:
        self._stop_watch()
        prepared = await Preparation(self._node, self.record, self._tell).run(executor)
        self._report(prepared.environment)
        await self._lease.wait()
        return prepared.plan

    async def _launch(self, runtime: Runtime, plan: LaunchPlan) -> Handle:
        retries = Retries(
            "starting the program", _LAUNCH_BACKOFF, Telling(self._tell), seconds_max=_LAUNCH_SECONDS_MAX
        )
        while True:
            try:
                with attempt_span("launch", self._grant):
                    return await runtime.launch(plan)
            except RunyardError as error:
                if error.code != "UNAVAILABLE":
                    raise
                await retries.pause(error)

    # From program to end.

    async def _follow(self) -> None:
        handle = self.record.state.handle
        assert handle is not None  # noqa: S101 - RUNNING has one
        executor = await self._node.executors.get(self.record.state.executor)
        plan = self._plan
        self._report(self.record.load_prepared())
        ended_event = self._program_ended = asyncio.Event()
        calls = self._open_calls()
        watched = self._node.sampling.watch(
            self.telemetry,
            self._grant.gpu_uuids,
            lambda: executor.runtime.pids(handle),
            in_container=self.record.state.executor == Executor.EXECUTOR_DOCKER,
        )
        try:
            async with TaskGroup() as group:
                reader = LogReader(plan.stdout, plan.stderr, self.telemetry)
                if (watch := self._stop_watch()) is not None:
                    await asyncio.to_thread(watch.look_back, self.telemetry.position("stdout_offset"))
                    watch.look(())
                    reader.on_lines = watch.look
                group.create_task(reader.follow(ended_event))
                group.create_task(LiveOutputs(self._outputs_of()).follow(ended_event))
                if calls is not None:
                    group.create_task(calls.keep_reporting(ended_event))
                with attempt_span("run", self._grant):
                    ended = await self._wait(executor.runtime, handle, plan)
                if calls is not None:
                    calls.report_newest()
                cause = await self._cause(ended, watched)
                # With this report the next attempt may get the GPUs.
                for sentence in await gpu_end.release(self._node.sampling, self.telemetry, plan):
                    self._tell(sentence)
                self._report(AttemptExited(cause=cause), ended.ended_at)
                ended_event.set()
        finally:
            self._node.sampling.unwatch(watched)
            if calls is not None:
                calls.close()
        self._tell(cause.detail or end_sentence(ended))
        # Last: from here on nobody reads its output any more.
        self.record.save(domain.ended(self.record.state, cause))

    async def _wait(self, runtime: Runtime, handle: Handle, plan: LaunchPlan) -> Exit:
        async def end_when_stopped() -> None:
            await self._stop_news.wait()
            stop = self.record.state.stop
            assert stop is not None  # noqa: S101 - the news are that there is one
            self._tell(f"stopping: {stop.reason or 'asked for'}")
            await runtime.signal(handle, signal.SIGTERM)
            await asyncio.sleep(stop.grace_seconds)
            while True:
                await runtime.kill(handle)
                await asyncio.sleep(_KILL_AGAIN_SECONDS)

        async with TaskGroup() as group:
            stopping = group.create_task(end_when_stopped())
            ended = await runtime.wait(handle, plan)
            stopping.cancel()
        return ended

    async def _cause(self, ended: Exit, watched: Watched) -> Cause:
        state = self.record.state
        if domain.is_lost_by_reboot(state, ended, self._node.boot_id, self._node.booted_at):
            return reboot_cause()
        return cause_of(ended, state.stop, await gpu_end.explain(self._node.sampling, watched, self._plan))

    async def _collect(self) -> None:
        state = self.record.state
        assert state.cause is not None  # noqa: S101 - COLLECTING has one
        assert state.handle is not None  # noqa: S101 - and this too
        cause, plan = state.cause, self._plan
        finished, problems = AttemptFinished(), []
        with attempt_span("collect", self._grant):
            try:
                stored = await collecting.collect(self._outputs_of())
            except OutputsIncomplete as error:
                stored = error.stored
                problems.append(error.message)
            try:
                await put_outputs(finished, self._outputs_of(), stored)
            except OutputsIncomplete as error:
                problems.append(error.message)
        if problems and cause.code == CauseCode.CAUSE_CODE_SUCCEEDED:
            cause = Cause(code=CauseCode.CAUSE_CODE_OUTPUT_UNAVAILABLE, detail="; ".join(problems))
        if stored:
            count, size = len(stored), sum(file.size_bytes for file in stored)
            self._tell(f"outputs: {count_words(count, 'file')}, {size} bytes")
        executor = await self._node.executors.get(state.executor)
        await executor.runtime.remove(state.handle, plan)
        await self._finish(cause, finished)

    async def _fail(self, cause: Cause) -> None:
        self._tell(f"not started: {cause.detail or 'it was stopped before'}")
        self._report(cause)
        await self._finish(cause, AttemptFinished())

    async def _finish(self, cause: Cause, finished: AttemptFinished) -> None:
        # The mark promises that the spool holds all of it: also after a power cut.
        await self.telemetry.sync()
        finished.telemetry.CopyFrom(self.telemetry.telemetry_mark())
        finished.cause.CopyFrom(cause)
        self._report(finished)
        self.record.save(domain.reported(self.record.state))

    # Parts of the above.

    def _open_calls(self) -> ProgramCalls | None:
        if self._node.calls is None:
            return None
        return ProgramCalls(
            self._node.calls, self._node, self.record, self._report_status, self._report_fetched, self._tell
        )

    def _report_status(self, status_detail: str) -> None:
        # Cut last: half a secret is none that could be found.
        shown = self.telemetry.redaction.of(status_detail)[:STATUS_DETAIL_LENGTH_MAX]
        self.record.report_status(shown, self._node.clock.now())
        self._reports_changed()

    def _report_fetched(self, fetched: InputFetched) -> None:
        self.record.report_fetched(fetched, self._node.clock.now())
        self._reports_changed()

    def _outputs_of(self) -> OutputsOf:
        grant = self._grant
        return OutputsOf(
            artifact_client=self._node.artifact_client,
            folder=self._plan.outputs,
            origin=Origin(run_id=grant.run_id, attempt=grant.attempt, project=grant.project),
            live_file=self.record.live_outputs_file,
            tell=self._tell,
            redaction=self.telemetry.redaction,
        )

    def _stop_watch(self) -> StopWatch | None:
        spec = self._grant.spec
        return StopWatch(spec, self._plan, self.stop) if spec.stop_condition else None

    def _report(self, fact: Fact, occurred_at: datetime | None = None) -> None:
        shown = secret_free(fact, self._secret_names, self.telemetry.redaction)
        if self.record.report(shown, occurred_at or self._node.clock.now()):
            self._reports_changed()

    def _tell(self, sentence: str) -> None:
        try:
            self.telemetry.write_status(sentence)
        except OSError:
            logger.exception("a status line could not be spooled: %s", sentence)


def _leaves(group: BaseExceptionGroup[RunyardError]) -> Iterator[RunyardError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
