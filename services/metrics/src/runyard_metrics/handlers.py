"""Questions of clients, answered from the tables at one moment of both lanes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from runyard.event.v1.read_pb2 import ReadOptions
from runyard.metric.v1.batches_pb2 import LogChunkRecorded
from runyard_core.errors import InvalidInput, NotFound, ResourceExhausted
from runyard_eventlog.moment import WAIT_SECONDS_MAX, Moments
from runyard_eventlog.port import EventLog
from runyard_eventlog.positions import telemetry_at
from runyard_eventlog.projector import Projector
from runyard_metrics.domain.coverage import Coverage, coverage_of
from runyard_metrics.domain.spools import SpoolKey
from runyard_metrics.domain.thinning import POINTS_MIN, thinned_indices
from runyard_metrics.marks import mark_in_log
from runyard_metrics.queries import NAMES_MAX, MetricQueries
from runyard_metrics.tables import (
    GpuIncidentRow,
    GpuUsageRow,
    HostUsageRow,
    LogProgressRow,
    MetricSeriesRow,
    RunProgressRow,
)

POINTS_DEFAULT = 2_000
POINTS_MAX = 100_000
ANSWER_POINTS_MAX = 900_000
"""Most points of one answer: a message holds 16 MiB."""
METRICS_BYTES_MAX = 8 * 1024 * 1024
"""Names and JSON values of one summary; what is beyond is left out, and the summary says so."""
METRIC_POINTS_MAX = 10_000_000
"""Most points of a metric that are thinned for an answer, at 24 bytes each: one a second for 16 weeks."""
LINES_BYTES_MAX = 4 * 1024 * 1024
"""Text that is read at once; a page of lines ends early rather than grow much beyond."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What an answer shows: a position of each lane."""

    domain: int
    telemetry: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything of one attempt but its points and lines."""

    attempt: int
    moment: Moment
    log: LogProgressRow | None
    metric_point_count: int
    metrics: list[MetricSeriesRow]
    has_more_metrics: bool
    """``metrics`` are only the first by name."""
    host: list[HostUsageRow]
    gpus: list[GpuUsageRow]
    gpu_incidents: list[GpuIncidentRow]


@dataclass(frozen=True, slots=True)
class ThinnedSeries:
    """A metric's points, thinned."""

    name: str
    times_unix_milliseconds: list[int]
    values: list[float]
    point_count: int
    """Before thinning."""


@dataclass(frozen=True, slots=True)
class LinesPage:
    """One page of a log."""

    chunks: list[LogChunkRecorded]
    first_line: int
    last_line: int
    """Of the chunks only lines from first to last belong to the page."""
    next_line: int | None
    """Where the next page starts; None after the last."""


class MetricHandlers:
    """Reads at one moment. Nothing here changes anything."""

    def __init__(
        self,
        event_log: EventLog,
        queries: MetricQueries,
        telemetry: Projector,
        runs: Projector,
    ) -> None:
        """Answer from these tables.

        Args:
            event_log: says where both lanes are.
            queries: reads the tables.
            telemetry: fills the tables of the telemetry lane.
            runs: fills the tables of the domain lane.
        """
        self.queries = queries
        self.telemetry = telemetry
        self.runs = runs
        self._event_log = event_log
        self._moments = Moments(event_log, runs)

    async def moment(self, read: ReadOptions) -> Moment:
        """Turn read options into positions that the tables show.

        With min_position, and for a past moment, telemetry that was in the log when the question came is
        waited for too.

        Raises:
            InvalidInput, OutOfRange, DeadlineExceeded: as ``Moments.shown``.
        """
        domain = await self._moments.shown(read)
        if not read.HasField("as_of") and not read.min_position:
            return Moment(domain, self.telemetry.checkpoint)
        telemetry = (await self._event_log.head()).telemetry_position
        if read.HasField("as_of"):
            telemetry = await telemetry_at(self._event_log, domain, telemetry)
        await self.telemetry.wait_for(telemetry, WAIT_SECONDS_MAX)
        return Moment(domain, telemetry)

    async def caught_up(self) -> Moment:
        """Wait until the tables show everything that is in the log now.

        Raises:
            DeadlineExceeded: they do not in time.
        """
        head = await self._event_log.head()
        await self.runs.wait_for(head.domain_position, WAIT_SECONDS_MAX)
        await self.telemetry.wait_for(head.telemetry_position, WAIT_SECONDS_MAX)
        return Moment(self.runs.checkpoint, self.telemetry.checkpoint)

    async def run(self, run_id: str, moment: Moment) -> RunProgressRow:
        """Give a run.

        Raises:
            InvalidInput: no run id.
            NotFound: there is no such run at that moment.
        """
        if not run_id:
            raise InvalidInput("run_id is missing", field_violations={"run_id": "required"})
        run = await self.queries.run_progress(run_id, moment.domain)
        if run is None:
            raise NotFound(
                f"there is no run {run_id} at position {moment.domain}; give its whole id",
                code="RUN_NOT_FOUND",
            )
        return run

    async def attempt(self, run_id: str, attempt: int, moment: Moment) -> int:
        """Check an attempt number of a run; 0 becomes the last one, and stays 0 before the first lease.

        Raises:
            InvalidInput: negative, or no run id.
            NotFound: there is no such run or attempt.
        """
        run = await self.run(run_id, moment)
        if attempt < 0:
            raise InvalidInput(f"attempt is {attempt}", field_violations={"attempt": "0 or more"})
        if attempt > run.attempt:
            raise NotFound(
                f"run {run_id} has {run.attempt} attempts, not {attempt}", code="ATTEMPT_NOT_FOUND"
            )
        return attempt or run.attempt

    async def summary(self, run_id: str, attempt: int, read: ReadOptions) -> Summary:
        """Gather the totals of an attempt.

        Raises:
            InvalidInput, NotFound: as ``attempt``.
            DeadlineExceeded, OutOfRange: as ``moment``.
        """
        moment = await self.moment(read)
        attempt = await self.attempt(run_id, attempt, moment)
        at = moment.telemetry
        points = await self.queries.metric_progress(run_id, attempt, at)
        metrics, has_more_metrics = await self._latest_metrics(run_id, attempt, at)
        return Summary(
            attempt=attempt,
            moment=moment,
            log=await self.queries.log_progress(run_id, attempt, at),
            metric_point_count=points.point_count if points else 0,
            metrics=metrics,
            has_more_metrics=has_more_metrics,
            host=await self.queries.host_usage(run_id, attempt, at),
            gpus=await self.queries.gpu_usage(run_id, attempt, at),
            gpu_incidents=await self.queries.gpu_incidents(run_id, attempt, at),
        )

    async def series(
        self, run_id: str, attempt: int, names: list[str], points_max: int, read: ReadOptions
    ) -> list[ThinnedSeries]:
        """Read the points of metrics, each thinned to at most ``points_max``.

        Raises:
            InvalidInput, NotFound: as ``attempt``; too few points asked for.
            ResourceExhausted: the answer would be too large (ANSWER_TOO_LARGE).
            DeadlineExceeded, OutOfRange: as ``moment``.
        """
        points_max = points_max_of(points_max)
        moment = await self.moment(read)
        attempt = await self.attempt(run_id, attempt, moment)
        wanted = sorted(set(names)) or await self.queries.metric_names(
            run_id, attempt, names_max=NAMES_MAX + 1
        )
        series: list[ThinnedSeries] = []
        point_count = 0
        if len(wanted) > NAMES_MAX:
            raise ResourceExhausted(f"over {NAMES_MAX} metrics: ask for fewer names", code="ANSWER_TOO_LARGE")
        parts = self.queries.latest_metrics(run_id, attempt, wanted, moment.telemetry)
        for name, count in [(row.name, row.point_count) async for rows in parts for row in rows]:
            if count > METRIC_POINTS_MAX:
                raise ResourceExhausted(
                    f"{name} has {count} points, more than {METRIC_POINTS_MAX}", code="ANSWER_TOO_LARGE"
                )
            if not count:
                continue
            times, values = await self.queries.metric_points(run_id, attempt, name, moment.telemetry)
            # Pure Python over up to millions of points: not on the loop that serves everybody.
            kept = await asyncio.to_thread(thinned_indices, values, points_max)
            point_count += len(kept)
            if point_count > ANSWER_POINTS_MAX:
                raise ResourceExhausted(
                    f"over {ANSWER_POINTS_MAX} points: ask for fewer names or a lower max_points",
                    code="ANSWER_TOO_LARGE",
                )
            thinned = ThinnedSeries(
                name, [times[index] for index in kept], [values[index] for index in kept], len(values)
            )
            series.append(thinned)
        return series

    async def first_line_of_tail(self, run_id: str, attempt: int, tail_line_count: int, position: int) -> int:
        """Give the number of the line at which the last lines begin."""
        coverage = await self._coverage(run_id, attempt, position)
        return coverage.first_of_last(tail_line_count) if tail_line_count else 1

    async def lines(
        self, run_id: str, attempt: int, first_line: int, line_count_max: int, position: int
    ) -> LinesPage:
        """Read a page of a log, from a line number on. Numbers that are not there are passed over."""
        coverage = await self._coverage(run_id, attempt, position)
        first = coverage.next_had(first_line)
        if first is None:
            return LinesPage([], first_line, first_line, None)
        last = first + line_count_max - 1
        chunks = await self.queries.log_chunks(
            run_id, attempt, first, last, position, bytes_max=LINES_BYTES_MAX
        )
        if chunks:
            last = min(last, chunks[-1].first_line_number + len(chunks[-1].lines) - 1)
        return LinesPage(chunks, first, last, coverage.next_had(last + 1))

    async def committed_mark(self, node_id: str, spool_id: str) -> int:
        """Say up to which sequence the log has a spool.

        Raises:
            InvalidInput: a name is missing.
            Unavailable: the log does not answer.
        """
        if not node_id or not spool_id:
            raise InvalidInput(
                "node_id and spool_id are required",
                field_violations={"node_id" if not node_id else "spool_id": "required"},
            )
        shown = await self.queries.committed_mark(node_id, spool_id, self.telemetry.checkpoint)
        return await mark_in_log(self._event_log, SpoolKey(node_id, spool_id), shown)

    async def _latest_metrics(
        self, run_id: str, attempt: int, position: int
    ) -> tuple[list[MetricSeriesRow], bool]:
        """Give the newest values of the first metrics by name, as many as a message may hold.

        Says also whether there are more.
        """
        names = await self.queries.metric_names(run_id, attempt, names_max=NAMES_MAX + 1)
        found: list[MetricSeriesRow] = []
        size = 0
        async for rows in self.queries.latest_metrics(run_id, attempt, names[:NAMES_MAX], position):
            for row in rows:
                size += len(row.name.encode()) + len(row.last_json.encode())
                if size > METRICS_BYTES_MAX:
                    return found, True
                found.append(row)
        return found, len(names) > NAMES_MAX

    async def _coverage(self, run_id: str, attempt: int, position: int) -> Coverage:
        row = await self.queries.log_progress(run_id, attempt, position)
        return coverage_of(row.range_firsts, row.range_lasts) if row else Coverage()


def points_max_of(asked: int) -> int:
    """Give how many points a series may have, at most.

    Raises:
        InvalidInput: too few asked for.
    """
    if asked and asked < POINTS_MIN:
        raise InvalidInput(
            f"max_points is {asked}, want 0 or {POINTS_MIN} to {POINTS_MAX}",
            field_violations={"max_points": f"{POINTS_MIN} or more"},
        )
    return min(asked or POINTS_DEFAULT, POINTS_MAX)
