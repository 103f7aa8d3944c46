"""The log itself, read-only: pages, live events, heads."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.json_format import MessageToJson

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1 import history_service_pb2 as pb
from runyard_contracts.envelope import UndecodableEventError
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError
from runyard_core.clock import Clock
from runyard_core.errors import OutOfRange
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.subscriber import follow
from runyard_servicekit.paging import PageToken, decode_page_token, encode_page_token, page_size

BOOKMARK_SECONDS = 5.0
FROM_NOW_ON = -1


class HistoryHandlers:
    """Reads the log for people and programs."""

    def __init__(self, event_log: EventLog, doorbell: Doorbell, clock: Clock) -> None:
        """Read this log; the doorbell says when it may have grown."""
        self._event_log = event_log
        self._doorbell = doorbell
        self._clock = clock

    async def events(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """Give one page; every page of a walk ends at the head of the first.

        Raises:
            InvalidInput: a broken page size or token.
            OutOfRange: a position that the log does not have.
        """
        lane = request.lane or Lane.LANE_DOMAIN
        size = page_size(request.page_size)
        query = (
            str(lane),
            str(request.after_position),
            str(request.to_position),
            str(request.filter),
            str(request.descending),
        )
        token = decode_page_token(request.page_token, query)
        if token is None:
            head = (await self._event_log.head()).of(lane)
            low, high = request.after_position, request.to_position or head
            _check_range(low, high, head)
        else:
            low, high = (int(bound) for bound in token.after)
        page = await self._event_log.read(
            lane,
            after_position=Position(low),
            to_position=Position(high),
            filter=_filter_of(request.filter),
            limit=size,
            descending=request.descending,
        )
        answer = pb.ListEventsResponse(events=[event_view(event) for event in page.events])
        if len(page.events) == size:
            last = page.events[-1].position
            low, high = (low, last - 1) if request.descending else (last, high)
            if low < high:
                answer.next_page_token = encode_page_token(PageToken(high, (low, high)), query)
        return answer

    async def watch(self, request: pb.WatchEventsRequest) -> AsyncIterator[pb.WatchEventsResponse]:
        """Stream events after a position; a caught-up mark once, bookmarks at least every 5 s.

        Raises:
            OutOfRange: a position that the log does not have.
        """
        lane = request.lane or Lane.LANE_DOMAIN
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
            filter=_filter_of(request.filter),
            doorbell=self._doorbell,
            idle_page_seconds=BOOKMARK_SECONDS,
        ):
            for event in page.events:
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


def event_view(event: RecordedEvent) -> pb.EventView:
    """Write an event with its payload as JSON; without, when this version does not know its type."""
    try:
        data = MessageToJson(event.message, preserving_proto_field_name=True, indent=None)
    except (UnknownEventTypeError, UndecodableEventError, NoUpcasterError):
        data = ""
    return pb.EventView(envelope=event.envelope, data_json=data)


def _filter_of(wanted: pb.EventFilter) -> EventFilter:
    return EventFilter(
        types=tuple(wanted.types),
        streams=(wanted.stream,) if wanted.stream else (),
        correlation_id=wanted.correlation_id,
        actor=wanted.actor,
    )


def _check_range(low: int, high: int, head: int) -> None:
    if low < 0 or not low <= high <= head:
        raise OutOfRange(
            f"positions {low} to {high} are not a range of the log, whose head is {head}",
            code="POSITION_AHEAD",
            metadata={"head": str(head)},
        )
