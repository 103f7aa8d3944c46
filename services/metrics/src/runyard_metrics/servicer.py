"""MetricService over gRPC: requests to questions, rows to messages; nothing else."""

# ruff: noqa: ARG002 - gRPC gives every method a context, which we never need

from __future__ import annotations

from collections.abc import AsyncIterator

from runyard.metric.v1.metric_service_pb2 import (
    GetCommittedMarkRequest,
    GetCommittedMarkResponse,
    GetRunSummaryRequest,
    GetRunSummaryResponse,
    GpuSeries,
    ListGpuReadingsRequest,
    ListGpuReadingsResponse,
    ListLogLinesRequest,
    ListLogLinesResponse,
    LogLine,
    QueryGpuSeriesRequest,
    QueryGpuSeriesResponse,
    QuerySeriesRequest,
    QuerySeriesResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from runyard.metric.v1.metric_service_pb2_grpc import MetricServiceServicer
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput
from runyard_metrics.answers import line_messages, series_message, summary_message
from runyard_metrics.gpu_answers import ReadingPlace
from runyard_metrics.gpu_handlers import GpuHandlers, ReadingMoment
from runyard_metrics.handlers import LINES_BYTES_MAX, LinesPage, MetricHandlers
from runyard_metrics.watch import RunWatch
from runyard_servicekit.auth import require_role
from runyard_servicekit.paging import PageToken, decode_page_token, encode_page_token, page_query, page_size

LINES_DEFAULT = 1_000
LINES_MAX = 10_000


class MetricServicer(MetricServiceServicer):
    """Answers queries and watches."""

    def __init__(self, handlers: MetricHandlers, clock: Clock) -> None:
        """Serve these handlers."""
        self._handlers = handlers
        self._gpus = GpuHandlers(handlers, clock)
        self._clock = clock

    async def GetRunSummary(self, request: GetRunSummaryRequest, context: object) -> GetRunSummaryResponse:
        """Give the latest value of each metric, utilisation statistics and log totals of a run."""
        require_role("client", "service")
        return summary_message(await self._handlers.summary(request.run_id, request.attempt, request.read))

    async def QuerySeries(self, request: QuerySeriesRequest, context: object) -> QuerySeriesResponse:
        """Give the points of metrics of a run, thinned."""
        require_role("client", "service")
        series = await self._handlers.series(
            request.run_id, request.attempt, list(request.names), request.max_points, request.read
        )
        return QuerySeriesResponse(series=[series_message(each) for each in series])

    async def QueryGpuSeries(self, request: QueryGpuSeriesRequest, context: object) -> QueryGpuSeriesResponse:
        """Give what a run's GPUs did over time, thinned."""
        require_role("client", "service")
        found = await self._gpus.series(
            request.run_id, request.attempt, list(request.names), request.max_points, request.read
        )
        return QueryGpuSeriesResponse(
            series=[
                GpuSeries(
                    gpu_uuid=each.key.gpu_uuid,
                    name=each.key.name,
                    times_unix_milliseconds=each.points.times,
                    values=each.points.values,
                    sample_count=each.sample_count,
                    pid=each.key.pid,
                    process_name=each.key.process_name,
                )
                for each in found
            ]
        )

    async def ListLogLines(self, request: ListLogLinesRequest, context: object) -> ListLogLinesResponse:
        """Page through the log of a run; all pages show the moment of the first."""
        require_role("client", "service")
        size = _lines_page_size(request.page_size)
        if request.tail_line_count < 0:
            raise InvalidInput(
                f"tail_line_count is {request.tail_line_count}",
                field_violations={"tail_line_count": "negative"},
            )
        query = page_query(
            request.run_id, str(request.attempt), str(request.tail_line_count), read=request.read
        )
        token = decode_page_token(request.page_token, query, like=(0, 0))
        if token is None:
            moment = await self._handlers.moment(request.read)
            position = moment.telemetry
            attempt = await self._handlers.attempt(request.run_id, request.attempt, moment)
            first = await self._handlers.first_line_of_tail(
                request.run_id, attempt, request.tail_line_count, position
            )
        else:
            position = token.position
            attempt, first = token.after
        page = await self._handlers.lines(request.run_id, attempt, first, size, position)
        lines, next_line = _within_bytes(page)
        answer = ListLogLinesResponse(lines=lines)
        if next_line is not None:
            answer.next_page_token = encode_page_token(PageToken(position, (attempt, next_line)), query)
        return answer

    async def WatchRun(self, request: WatchRunRequest, context: object) -> AsyncIterator[WatchRunResponse]:
        """Stream log lines and metric points of a run as they are committed."""
        require_role("client", "service")
        async for item in RunWatch(self._handlers, request, self._clock).items():
            yield item

    async def ListGpuReadings(
        self, request: ListGpuReadingsRequest, context: object
    ) -> ListGpuReadingsResponse:
        """Page through the newest samples of every GPU that reported within two days."""
        require_role("client", "service")
        size, query = page_size(request.page_size), page_query(request.node_id, read=request.read)
        token = decode_page_token(request.page_token, query, like=(0, "", 0))
        if token is None:
            moment, first = await self._gpus.reading_moment(request.node_id, request.read), ReadingPlace()
        else:
            milliseconds, node_id, gpu_index = token.after
            moment, first = ReadingMoment(token.position, milliseconds), ReadingPlace(node_id, gpu_index)
        readings, following = await self._gpus.readings(request.node_id, moment, first, size)
        answer = ListGpuReadingsResponse(readings=readings)
        if following is not None:
            after = (moment.unix_milliseconds, following.node_id, following.gpu_index)
            answer.next_page_token = encode_page_token(PageToken(moment.position, after), query)
        return answer

    async def GetCommittedMark(
        self, request: GetCommittedMarkRequest, context: object
    ) -> GetCommittedMarkResponse:
        """Say up to which sequence the log has a spool."""
        require_role("agent", "client", "service")
        sequence = await self._handlers.committed_mark(request.node_id, request.spool_id)
        return GetCommittedMarkResponse(sequence=sequence)


def _lines_page_size(requested: int) -> int:
    if requested < 0:
        raise InvalidInput(
            f"page_size is {requested}, want 0 to {LINES_MAX}", field_violations={"page_size": "negative"}
        )
    return min(requested or LINES_DEFAULT, LINES_MAX)


def _within_bytes(page: LinesPage) -> tuple[list[LogLine], int | None]:
    """Cut a page before it grows too large for a message; gives also where the next page starts."""
    lines: list[LogLine] = []
    size = 0
    for line in line_messages(page.chunks, page.first_line, page.last_line):
        size += len(line.text.encode())
        if lines and size > LINES_BYTES_MAX:
            return lines, line.number
        lines.append(line)
    return lines, page.next_line
