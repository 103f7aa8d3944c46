"""Questions of clients about GPUs, answered from the tables at one moment of both lanes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runyard.event.v1.read_pb2 import ReadOptions
from runyard.metric.v1.batches_pb2 import GpuSamplesRecorded
from runyard.metric.v1.metric_service_pb2 import GpuReading
from runyard_core.clock import Clock
from runyard_core.errors import ResourceExhausted
from runyard_metrics.domain.thinning import thinned_indices
from runyard_metrics.gpu_answers import Points, ReadingPlace, SeriesKey, add_gpu_points, readings_page
from runyard_metrics.handlers import ANSWER_POINTS_MAX, MetricHandlers, points_max_of

REPORTED_MILLISECONDS_MAX = 48 * 3600 * 1000
"""A node whose newest sample is older than this is left out: it may have been taken away for good."""
GATHERED_POINTS_MAX = 20_000_000
"""Most points that one answer is made of, at 16 bytes each: one quantity of eight GPUs for four weeks."""


@dataclass(frozen=True, slots=True)
class ReadingMoment:
    """What every page of one list of readings shows."""

    position: int
    """Of the telemetry lane."""
    unix_milliseconds: int
    """Now; of a past moment, when the newest sample was taken."""


@dataclass(frozen=True, slots=True)
class ThinnedGpuSeries:
    """What one GPU, or one process on it, did over time, thinned."""

    key: SeriesKey
    points: Points
    sample_count: int
    """Before thinning."""


class GpuHandlers:
    """Reads at one moment. Nothing here changes anything."""

    def __init__(self, handlers: MetricHandlers, clock: Clock) -> None:
        """Share the moments and tables of the other questions; the clock says what "lately" is."""
        self._handlers = handlers
        self._clock = clock

    async def reading_moment(self, node_id: str, read: ReadOptions) -> ReadingMoment:
        """Say as of when the readings of a node, or of all, are shown.

        Raises:
            DeadlineExceeded, OutOfRange: as ``MetricHandlers.moment``.
        """
        position = (await self._handlers.moment(read)).telemetry
        if read.HasField("as_of"):
            newest = await self._handlers.queries.newest_gpu_reading_time(node_id, position)
        else:
            newest = int(self._clock.now().timestamp() * 1000)
        return ReadingMoment(position, newest)

    async def readings(
        self, node_id: str, moment: ReadingMoment, first: ReadingPlace, count_max: int
    ) -> tuple[list[GpuReading], ReadingPlace | None]:
        """Give one page of readings, and where the next begins; None after the last."""
        # One node more than the page can hold: every row has a GPU at least.
        since = moment.unix_milliseconds - REPORTED_MILLISECONDS_MAX
        rows = await self._handlers.queries.gpu_readings(
            node_id, first.node_id, since, moment.position, count_max + 1
        )
        return readings_page(rows, first, count_max, moment.unix_milliseconds)

    async def series(
        self, run_id: str, attempt: int, names: Sequence[str], points_max: int, read: ReadOptions
    ) -> list[ThinnedGpuSeries]:
        """Read what the GPUs of an attempt did, each series thinned to at most ``points_max``.

        Raises:
            InvalidInput, NotFound: as ``MetricHandlers.attempt``; too few points asked for.
            ResourceExhausted: the answer would be too large (ANSWER_TOO_LARGE).
            DeadlineExceeded, OutOfRange: as ``MetricHandlers.moment``.
        """
        points_max = points_max_of(points_max)
        moment = await self._handlers.moment(read)
        attempt = await self._handlers.attempt(run_id, attempt, moment)
        gathered: dict[SeriesKey, Points] = {}
        # Pure Python over days of samples: not on the loop that serves everybody, and over with the question.
        async for payloads in self._handlers.queries.gpu_samples(run_id, attempt, moment.telemetry):
            await asyncio.to_thread(gather, gathered, payloads, frozenset(names))
        series = await asyncio.to_thread(_thinned, gathered, points_max)
        if sum(len(each.points.values) for each in series) > ANSWER_POINTS_MAX:
            raise ResourceExhausted(
                f"over {ANSWER_POINTS_MAX} points: ask for fewer names or a lower max_points",
                code="ANSWER_TOO_LARGE",
            )
        return series


def gather(gathered: dict[SeriesKey, Points], payloads: Iterable[bytes], names: frozenset[str]) -> None:
    """Add the points of some quantities (of all when none is named) from batches.

    Raises:
        ResourceExhausted: there are more than GATHERED_POINTS_MAX (ANSWER_TOO_LARGE).
    """
    add_gpu_points(gathered, map(GpuSamplesRecorded.FromString, payloads), names)
    if sum(len(points.values) for points in gathered.values()) > GATHERED_POINTS_MAX:
        raise ResourceExhausted(
            f"made of over {GATHERED_POINTS_MAX} points: ask for fewer names", code="ANSWER_TOO_LARGE"
        )


def _thinned(gathered: Mapping[SeriesKey, Points], points_max: int) -> list[ThinnedGpuSeries]:
    thinned = []
    for key, unordered in sorted(gathered.items()):
        points = unordered.in_order()
        kept = thinned_indices(points.values, points_max)
        thinned.append(ThinnedGpuSeries(key, points.at(kept), len(points.values)))
    return thinned
