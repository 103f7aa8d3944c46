"""The same answers as HistoryService gives, from the log itself. ``source`` imports it when it is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1 import history_service_pb2 as pb
from runyard.lineage.v1 import lineage_service_pb2 as lineage_pb
from runyard_contracts.ids import Position
from runyard_core.clock import SystemClock
from runyard_eventlog.personal.edge import PersonalEdge
from runyard_eventlog.port import EventLog
from runyard_eventlog.subscriber import follow
from runyard_replay.reading.causes import effects_of
from runyard_replay.reading.comparing import diff_states
from runyard_replay.reading.explaining import explain_run
from runyard_replay.reading.repricing import price_again
from runyard_replay.reading.selecting import bounds_of, select_page, selection_of
from runyard_replay.reading.states import state_as_of
from runyard_replay.reading.timelines import read_timeline
from runyard_replay.reading.tracing import impact, trace
from runyard_replay.views import answered_page, event_view


class DirectSource:
    """Fills ``Source`` from an event log."""

    def __init__(self, event_log: EventLog, edge: PersonalEdge) -> None:
        """Read this log; the edge opens names, as a service's does."""
        self._log = event_log
        self._edge = edge
        self._clock = SystemClock()

    async def list_events(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """See ``Source``; the next page is asked for by position, so there is no page token."""
        await self._edge.seal_request(request)
        lane = request.lane or Lane.LANE_DOMAIN
        head = (await self._log.head()).of(lane)
        selection = selection_of(request.filter)
        first, last = await bounds_of(self._log, lane, request.filter, head)
        page = await select_page(
            self._log,
            lane,
            selection,
            after=max(first, request.after_position),
            to=min(last, request.to_position or head),
            limit=request.page_size,
            descending=request.descending,
        )
        answer = pb.ListEventsResponse(events=answered_page(page)[0])
        return answer if request.as_stored else await self._edge.open_answer(answer)

    async def watch_events(self, request: pb.WatchEventsRequest) -> AsyncIterator[pb.EventView]:
        """See ``Source``."""
        await self._edge.seal_request(request)
        lane = request.lane or Lane.LANE_DOMAIN
        selection = selection_of(request.filter)
        start = request.after_position
        if start < 0:
            start = (await self._log.head()).of(lane)
        pages = follow(self._log, lane, after_position=Position(start), filter=selection.log_filter)
        async with aclosing(pages):
            async for page in pages:
                for event in filter(selection.has, page.events):
                    yield await self._edge.open_answer(event_view(event))

    async def head(self) -> pb.GetLogHeadResponse:
        """See ``Source``."""
        head = await self._log.head()
        return pb.GetLogHeadResponse(
            log_id=head.log_id,
            domain_position=head.domain_position,
            telemetry_position=head.telemetry_position,
        )

    async def timeline(self, request: pb.ReadTimelineRequest) -> AsyncIterator[pb.TimelineEntry]:
        """See ``Source``."""
        async with aclosing(read_timeline(self._log, request, self._clock)) as entries:
            async for entry in entries:
                yield await self._edge.open_answer(entry)

    async def state(self, request: pb.GetStateAsOfRequest) -> pb.GetStateAsOfResponse:
        """See ``Source``."""
        return await self._edge.open_answer(await state_as_of(self._log, request, self._clock))

    async def explain(self, request: pb.ExplainRunRequest) -> pb.ExplainRunResponse:
        """See ``Source``."""
        return await self._edge.open_answer(await explain_run(self._log, request, self._clock))

    async def diff(self, request: pb.DiffStatesRequest) -> pb.DiffStatesResponse:
        """See ``Source``."""
        return await self._edge.open_answer(await diff_states(self._log, request, self._clock))

    async def effects(self, request: pb.ListEffectsRequest) -> pb.ListEffectsResponse:
        """See ``Source``."""
        return await self._edge.open_answer(await effects_of(self._log, request, self._clock))

    async def price_again(self, request: pb.PriceAgainRequest) -> pb.PriceAgainResponse:
        """See ``Source``."""
        return await price_again(self._log, request, self._clock)

    async def trace(self, request: lineage_pb.TraceRequest) -> lineage_pb.TraceResponse:
        """See ``Source``."""
        return await self._edge.open_answer(await trace(self._log, request, self._clock))

    async def impact(self, request: lineage_pb.ImpactRequest) -> lineage_pb.ImpactResponse:
        """See ``Source``."""
        return await self._edge.open_answer(await impact(self._log, request, self._clock))
