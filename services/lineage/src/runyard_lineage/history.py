"""The log itself, read-only: pages, live events, heads, and what a library folds of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from uuid import UUID

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1 import history_service_pb2 as pb
from runyard_contracts.ids import Position
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, NotFound, OutOfRange
from runyard_eventlog.disputes import dispute
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.port import EventLog
from runyard_eventlog.subscriber import follow
from runyard_replay.reading.causes import effects_of
from runyard_replay.reading.comparing import diff_states
from runyard_replay.reading.event_ids import find_event
from runyard_replay.reading.explaining import explain_run
from runyard_replay.reading.moments import moment_of
from runyard_replay.reading.queues import Queues
from runyard_replay.reading.repricing import price_again
from runyard_replay.reading.selecting import bounds_of, select_page, selection_of
from runyard_replay.reading.states import state_as_of
from runyard_replay.reading.timelines import read_timeline
from runyard_replay.views import answered_page, event_view
from runyard_servicekit.context import command_id, request_context
from runyard_servicekit.large_runs import fit_run
from runyard_servicekit.paging import PageToken, decode_page_token, encode_page_token, page_query, page_size

BOOKMARK_SECONDS = 5.0
FROM_NOW_ON = -1
_NO_RUN = str(UUID(int=0))


class HistoryHandlers:
    """Reads the log for people and programs."""

    def __init__(self, event_log: EventLog, doorbell: Doorbell, clock: Clock) -> None:
        """Read this log; the doorbell says when it may have grown."""
        self._event_log = event_log
        self._doorbell = doorbell
        self._clock = clock
        self._queues = Queues(event_log)

    async def events(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """Give one page; every page of a walk ends at the head of the first.

        Raises:
            InvalidInput: a broken page size, filter or token, or no lane (BAD_LANE).
            OutOfRange: a position that the log does not have.
        """
        lane = _lane_of(request.lane)
        size = page_size(request.page_size)
        selection = selection_of(request.filter)
        query = page_query(
            str(lane),
            str(request.after_position),
            str(request.to_position),
            str(request.filter),
            str(request.descending),
            read=None,
        )
        token = decode_page_token(request.page_token, query, like=(0, 0))
        if token is None:
            head = (await self._event_log.head()).of(lane)
            low, high = request.after_position, request.to_position or head
            _check_range(low, high, head)
            first, last = await bounds_of(self._event_log, lane, request.filter, head)
            low, high = max(low, first), min(high, last)
        else:
            low, high = token.after
        page = await select_page(
            self._event_log, lane, selection, after=low, to=high, limit=size, descending=request.descending
        )
        views, ends_at = answered_page(page)
        answer = pb.ListEventsResponse(events=views)
        if ends_at is not None:
            low, high = (low, ends_at - 1) if request.descending else (ends_at, high)
            if low < high:
                answer.next_page_token = encode_page_token(PageToken(high, (low, high)), query)
        return answer

    async def watch(self, request: pb.WatchEventsRequest) -> AsyncIterator[pb.WatchEventsResponse]:
        """Stream events after a position; a caught-up mark once, bookmarks at least every 5 s.

        Raises:
            InvalidInput: a filter that cannot be, or no lane (BAD_LANE).
            OutOfRange: a position that the log does not have.
        """
        lane = _lane_of(request.lane)
        selection = selection_of(request.filter)
        if request.filter.HasField("recorded_from") or request.filter.HasField("recorded_to"):
            raise InvalidInput("a watch begins at a position, not at a time", code="BAD_FILTER")
        head = (await self._event_log.head()).of(lane)
        start = head if request.after_position == FROM_NOW_ON else request.after_position
        _check_range(start, head, head)
        caught_up = start >= head
        if caught_up:
            yield pb.WatchEventsResponse(caught_up_position=start)
        said_at = self._clock.monotonic_seconds()
        async for page in follow(
            self._event_log,
            lane,
            after_position=Position(start),
            filter=selection.log_filter,
            doorbell=self._doorbell,
            idle_page_seconds=BOOKMARK_SECONDS,
        ):
            for event in filter(selection.has, page.events):
                yield pb.WatchEventsResponse(event=event_view(event))
            if not caught_up and page.scanned_to >= head:
                caught_up = True
                yield pb.WatchEventsResponse(caught_up_position=page.scanned_to)
            now = self._clock.monotonic_seconds()
            if now - said_at >= BOOKMARK_SECONDS:
                said_at = now
                yield pb.WatchEventsResponse(bookmark_position=page.scanned_to)

    async def head(self) -> pb.GetLogHeadResponse:
        """Give the newest positions of both lanes."""
        head = await self._event_log.head()
        return pb.GetLogHeadResponse(
            log_id=head.log_id,
            domain_position=head.domain_position,
            telemetry_position=head.telemetry_position,
        )

    async def timeline(self, request: pb.ReadTimelineRequest) -> AsyncIterator[pb.ReadTimelineResponse]:
        """Stream everything that happened to a thing; raises as ``read_timeline``."""
        async with aclosing(read_timeline(self._event_log, request, self._clock)) as entries:
            async for entry in entries:
                yield pb.ReadTimelineResponse(entry=entry)

    async def state_as_of(self, request: pb.GetStateAsOfRequest) -> pb.GetStateAsOfResponse:
        """Show a thing as it was; raises as ``state_as_of`` of the library."""
        shown = await state_as_of(self._event_log, request, self._clock, self._queues)
        if shown.HasField("run"):
            fit_run(shown.run)
        return shown

    async def look_for_a_run(self) -> None:
        """Ask for a run that is not there, as of now.

        Raises:
            OutOfRange: the log has no events yet.
            Unavailable: the log did not answer in time.
        """
        subject = pb.Subject(kind=pb.SubjectKind.SUBJECT_KIND_RUN, name=_NO_RUN)
        with suppress(NotFound):
            await self.state_as_of(pb.GetStateAsOfRequest(subject=subject))

    async def remember_queue(self) -> None:
        """Look at the queue once, so that the first question about it is answered as fast as later ones.

        Raises:
            OutOfRange: the log has no events yet.
            Unavailable: the log did not answer in time.
        """
        await self._queues.remember(await moment_of(self._event_log, AsOf(), self._clock))

    async def explain(self, request: pb.ExplainRunRequest) -> pb.ExplainRunResponse:
        """Say which events changed a field of a run; raises as ``explain_run``."""
        return await explain_run(self._event_log, request, self._clock)

    async def diff(self, request: pb.DiffStatesRequest) -> pb.DiffStatesResponse:
        """Compare a thing at two moments; raises as ``diff_states``."""
        return await diff_states(self._event_log, request, self._clock, self._queues)

    async def effects(self, request: pb.ListEffectsRequest) -> pb.ListEffectsResponse:
        """Walk to everything that an event caused; raises as ``effects_of``."""
        return await effects_of(self._event_log, request, self._clock)

    async def price_again(self, request: pb.PriceAgainRequest) -> pb.PriceAgainResponse:
        """Price recorded leases with another price book; raises as ``price_again`` of the library."""
        return await price_again(self._event_log, request, self._clock)

    async def dispute(self, request: pb.DisputeEventRequest) -> pb.DisputeEventResponse:
        """Say that an event should not count, or take that back.

        Raises:
            RunyardError: as ``find_event`` and ``dispute`` of the libraries.
        """
        meant = await find_event(self._event_log, request.event_id)
        executed, event = await dispute(
            self._event_log,
            meant.envelope.event_id,
            request.reason,
            request_context("lineage"),
            withdraw=request.withdraw,
            command_id=command_id("lineage", "DisputeEvent", request.request_id),
            now=self._clock.now(),
        )
        return pb.DisputeEventResponse(position=executed.position, event=event_view(event))


def _lane_of(asked: Lane.ValueType) -> Lane.ValueType:
    lane = asked or Lane.LANE_DOMAIN
    if lane not in Lane.values():
        raise InvalidInput(f"there is no lane {lane}", code="BAD_LANE", field_violations={"lane": "unknown"})
    return lane


def _check_range(low: int, high: int, head: int) -> None:
    if low < 0 or not low <= high <= head:
        raise OutOfRange(
            f"positions {low} to {high} are not a range of the log, whose head is {head}",
            code="POSITION_AHEAD",
            metadata={"head": str(head)},
        )
