"""Follows one run live: pushed by the progress of the projectors, never by polling the tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from runyard.metric.v1.metric_service_pb2 import WatchRunRequest, WatchRunResponse
from runyard_core.clock import Clock
from runyard_core.errors import DeadlineExceeded
from runyard_eventlog.projector import Projector
from runyard_metrics.answers import latest_message, line_messages
from runyard_metrics.handlers import LINES_BYTES_MAX, MetricHandlers, Moment
from runyard_metrics.tables import RunProgressRow

BOOKMARK_SECONDS = 5.0
"""A watcher hears at least this often."""
SNAPSHOT_LINES = 5_000
"""Lines that are read at once while the past is sent."""


@dataclass(slots=True)
class _Seen:
    """What the watcher has been sent."""

    attempt: int = 0
    telemetry: int = 0


class RunWatch:
    """One watcher of one run."""

    def __init__(self, handlers: MetricHandlers, request: WatchRunRequest, clock: Clock) -> None:
        """Prepare; nothing is read before ``items``."""
        self._handlers = handlers
        self._request = request
        self._clock = clock
        self._seen = _Seen()

    async def items(self) -> AsyncIterator[WatchRunResponse]:
        """Give lines, metrics, attempts and bookmarks until the run's record is complete.

        Raises:
            NotFound, InvalidInput: as ``MetricHandlers.run``.
            Unavailable: the tables do not answer.
        """
        handlers, request = self._handlers, self._request
        # A run that was submitted just now is in the log, and may not be in the tables yet.
        moment = await handlers.caught_up()
        run = await handlers.run(request.run_id, moment)
        heard_at = self._clock.monotonic_seconds()
        while True:
            async for item in self._new_items(run, moment):
                yield item
            if await self._is_complete(run, moment):
                yield WatchRunResponse(complete=True)
                return
            since = self._clock.monotonic_seconds() - heard_at
            if since >= BOOKMARK_SECONDS:
                yield WatchRunResponse(bookmark_position=moment.telemetry)
                heard_at, since = self._clock.monotonic_seconds(), 0.0
            await _moved(handlers.telemetry, handlers.runs, moment, BOOKMARK_SECONDS - since)
            runs_moved = handlers.runs.checkpoint > moment.domain
            moment = Moment(handlers.runs.checkpoint, handlers.telemetry.checkpoint)
            if runs_moved:
                run = await handlers.run(request.run_id, moment)

    async def _new_items(self, run: RunProgressRow, moment: Moment) -> AsyncIterator[WatchRunResponse]:
        if self._seen.attempt:
            async for item in self._added(moment):
                yield item
        if run.attempt > self._seen.attempt:
            after_line = 0 if self._seen.attempt else self._request.after_line_number
            self._seen = _Seen(run.attempt, moment.telemetry)
            yield WatchRunResponse(attempt_started=run.attempt)
            async for item in self._past(after_line, moment):
                yield item

    async def _past(self, after_line: int, moment: Moment) -> AsyncIterator[WatchRunResponse]:
        """Everything of the attempt up to a moment, lines in the order of their numbers."""
        run_id, attempt, at = self._request.run_id, self._seen.attempt, moment.telemetry
        next_line: int | None = after_line + 1
        while next_line is not None:
            page = await self._handlers.lines(run_id, attempt, next_line, SNAPSHOT_LINES, at)
            for line in line_messages(page.chunks, page.first_line, page.last_line):
                yield WatchRunResponse(line=line)
            next_line = page.next_line
        if self._request.with_metrics:
            names = await self._handlers.queries.metric_names(run_id, attempt)
            async for rows in self._handlers.queries.latest_metrics(run_id, attempt, names, at):
                for row in rows:
                    yield WatchRunResponse(metric=latest_message(row))

    async def _added(self, moment: Moment) -> AsyncIterator[WatchRunResponse]:
        """What came since the last look, lines in the order in which they came: none is left out."""
        queries, run_id, seen = self._handlers.queries, self._request.run_id, self._seen
        if moment.telemetry <= seen.telemetry:
            return
        between = (run_id, seen.attempt, seen.telemetry, moment.telemetry)
        # A watcher that does not read keeps us here; what came meanwhile can be days of lines.
        position = seen.telemetry
        while position < moment.telemetry:
            chunks, position = await queries.added_log_chunks(
                run_id, seen.attempt, position, moment.telemetry, bytes_max=LINES_BYTES_MAX
            )
            for line in line_messages(chunks):
                yield WatchRunResponse(line=line)
        if self._request.with_metrics and (names := await queries.changed_metric_names(*between)):
            async for rows in queries.latest_metrics(run_id, seen.attempt, names, moment.telemetry):
                for row in rows:
                    yield WatchRunResponse(metric=latest_message(row))
        seen.telemetry = moment.telemetry

    async def _is_complete(self, run: RunProgressRow, moment: Moment) -> bool:
        if not run.finished:
            return False
        if not run.mark_spool_id:
            return True
        mark = await self._handlers.queries.committed_mark(
            run.mark_node_id, run.mark_spool_id, moment.telemetry
        )
        return mark >= run.mark_sequence


async def _moved(telemetry: Projector, runs: Projector, moment: Moment, timeout_seconds: float) -> None:
    """Wait until either lane's tables are beyond a moment, or the time is over."""
    waits = [
        asyncio.ensure_future(telemetry.wait_for(moment.telemetry + 1, timeout_seconds)),
        asyncio.ensure_future(runs.wait_for(moment.domain + 1, timeout_seconds)),
    ]
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in done:
            if not isinstance(wait.exception(), DeadlineExceeded):
                wait.result()
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
