"""Following a run: its lines and metrics as they are committed, its state as it changes, to its end."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time

from runyard.metric.v1.metric_service_pb2 import LogLine, MetricLatest, WatchRunRequest
from runyard.run.v1.scheduler_service_pb2 import WatchRunsRequest
from runyard.run.v1.types_pb2 import Outcome, Run, RunState
from runyard_cli.failures import ExitCode
from runyard_cli.loglines import say_line
from runyard_cli.names import name_here
from runyard_cli.output import Style, is_json, is_terminal, note, safe, say, say_json_line, styled
from runyard_cli.session import get_run
from runyard_cli.table import cut
from runyard_cli.words import cause_words, duration_words, number_words, run_name, run_seconds, state_word
from runyard_client import Client, Unreachable
from runyard_core.retry import Backoff, Retries, Telling, retried
from runyard_core.task_group import TaskGroup

_GIVE_UP_SECONDS = 60.0
_BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0)
# A finished run whose last lines do not come (its machine is gone) must not hold the terminal for ever.
_LAST_LINES_SECONDS = 30.0


class Follower:
    """Shows one run until its record is complete. Survives services that go away and come back."""

    def __init__(
        self,
        client: Client,
        run: Run,
        *,
        after_line_number: int = 0,
        times: bool = False,
    ) -> None:
        """Keep what to follow and from where.

        Args:
            client: the yard.
            run: as last read.
            after_line_number: lines up to this one are not shown.
            times: show the time and stream of each line.
        """
        self._client = client
        self._run = run
        self._line_number = after_line_number
        self._times = times
        self._metrics: dict[str, MetricLatest] = {}
        self._last_state = ""
        self._is_over = asyncio.Event()
        self._shows_progress = is_terminal() and not is_json()

    async def follow(self) -> Run:
        """Show the run to its end, and give it as it is then.

        Raises:
            Unreachable: a service has not answered for a minute.
            ClientError: a service refused.
        """
        try:
            async with TaskGroup() as group:
                states = group.create_task(self._watch_states())
                lines = group.create_task(self._watch_lines())
                ended = group.create_task(self._is_over.wait())
                await asyncio.wait({lines, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not lines.done():
                    await asyncio.wait({lines}, timeout=_LAST_LINES_SECONDS)
                if not lines.done():
                    note("the run is over, but its last lines are on their way: see `runyard logs` later")
                await asyncio.wait({ended}, timeout=_LAST_LINES_SECONDS)
                for task in (states, lines, ended):
                    task.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self._clear_progress()
        return await self._read_end()

    async def _read_end(self) -> Run:
        return await retried(
            lambda: get_run(self._client, self._run.run_id), (Unreachable,), self._retries("reading its end")
        )

    async def _watch_states(self) -> None:
        after_position = self._run.position
        self._say_state()
        retries = self._retries("following the run")
        while True:
            try:
                request = WatchRunsRequest(after_position=after_position, name=self._run.run_id)
                async for response in self._client.scheduler.WatchRuns(request):
                    retries.succeeded()
                    if response.WhichOneof("item") == "event":
                        after_position = response.event.position
                        self._run = await get_run(
                            self._client, self._run.run_id, min_position=response.event.position
                        )
                        self._say_state()
                    if self._run.state == RunState.RUN_STATE_FINISHED:
                        self._is_over.set()
                        return
            except Unreachable as error:
                await retries.pause(error)

    async def _watch_lines(self) -> None:
        retries = self._retries("following its lines")
        while True:
            try:
                request = WatchRunRequest(
                    run_id=self._run.run_id,
                    after_line_number=self._line_number,
                    with_metrics=self._shows_progress,
                )
                async for response in self._client.metrics.WatchRun(request):
                    retries.succeeded()
                    match response.WhichOneof("item"):
                        case "line":
                            self._line_number = response.line.number
                            self._say_line(response.line)
                        case "metric":
                            self._metrics[response.metric.name] = response.metric
                        case "attempt_started":
                            self._line_number = 0
                        case "complete":
                            return
                        case _:
                            pass
                    self._show_progress()
            except Unreachable as error:
                await retries.pause(error)

    def _retries(self, what: str) -> Retries:
        return Retries(what, _BACKOFF, Telling(self._note), seconds_max=_GIVE_UP_SECONDS)

    def _note(self, text: str) -> None:
        self._clear_progress()
        note(text)

    def _say_line(self, line: LogLine) -> None:
        self._clear_progress()
        say_line(line, times=self._times)

    def _say_state(self) -> None:
        # How it ended is said at the end, by whoever follows.
        if is_json() or self._run.state == RunState.RUN_STATE_FINISHED:
            return
        word, style = state_word(self._run)
        where = self._run.attempts[-1].node_id if self._run.attempts else ""
        text = f"{run_name(self._run)} {word}"
        if self._run.state == RunState.RUN_STATE_QUEUED and self._run.waiting_reason:
            text += f": {self._run.waiting_reason}"
        elif self._run.state == RunState.RUN_STATE_STARTING and where:
            text += f" on {where}"
        if text != self._last_state:
            self._last_state = text
            self._clear_progress()
            note(text if not sys.stderr.isatty() else styled(text, style or Style.FAINT))

    def _show_progress(self) -> None:
        if not self._shows_progress or not self._metrics:
            return
        parts = [f"{safe(name)} {metric_words(metric)}" for name, metric in self._metrics.items()]
        seconds = run_seconds(self._run, time.time())
        if seconds is not None:
            parts.append(duration_words(seconds))
        columns = shutil.get_terminal_size().columns
        sys.stdout.write("\r\x1b[K" + styled(cut("  ".join(parts), columns - 1), Style.BUSY))
        sys.stdout.flush()

    def _clear_progress(self) -> None:
        if self._shows_progress:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()


def metric_words(metric: MetricLatest) -> str:
    """Write the newest value of a metric."""
    return safe(metric.json_value) if metric.json_value else number_words(metric.value)


async def follow_to_end(client: Client, run: Run) -> Run:
    """Follow a run that was queued just now; who leaves before its end is told that it goes on."""
    try:
        return await Follower(client, run).follow()
    except asyncio.CancelledError:
        name = name_here(run.project, run.number)
        note(
            f"\n{run_name(run)} goes on: `runyard logs -f {name}` follows it again, "
            f"`runyard stop {name}` ends it"
        )
        raise


def say_end(run: Run) -> ExitCode:
    """Say how a run ended, and give the exit code that says the same."""
    if is_json():
        say_json_line(run)
    else:
        word, style = state_word(run)
        seconds = run_seconds(run, time.time())
        after = f" after {duration_words(seconds)}" if seconds is not None else ""
        cause = cause_words(run.cause)
        say(f"{run_name(run)} {styled(word, style)}{after}{': ' + safe(cause) if cause else ''}")
    return ExitCode.DONE if run.outcome == Outcome.OUTCOME_SUCCEEDED else ExitCode.FAILED
