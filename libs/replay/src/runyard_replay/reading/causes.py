"""From an event back to what caused it, and forward to what it caused."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Mapping

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import Effect, ListEffectsRequest, ListEffectsResponse
from runyard_contracts.ids import EventId
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, NotFound
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.positions import telemetry_at
from runyard_replay.folding.sentences import sentence_of
from runyard_replay.reading.event_ids import find_event
from runyard_replay.reading.moments import moment_of
from runyard_replay.reading.pages import read_lane
from runyard_replay.reading.run_names import RunNames
from runyard_replay.views import event_view

CHAIN_EVENTS_MAX = 64
"""A chain of causes that is longer is cut here; the cut shows, as its last event names a cause."""
EFFECTS_DEFAULT = 1_000
EFFECTS_MAX = 10_000


class Causes:
    """Finds chains of causes; remembers the events that it has met."""

    def __init__(self, event_log: EventLog) -> None:
        """Look causes up in this log."""
        self._log = event_log
        self._known: dict[str, RecordedEvent | None] = {}

    def remember(self, event: RecordedEvent) -> None:
        """Keep an event that may be a cause of later ones."""
        self._known[event.envelope.event_id] = event

    async def chain(self, event: RecordedEvent) -> list[RecordedEvent]:
        """Give the causes of an event, direct cause first; it ends where the log knows no more."""
        links: list[RecordedEvent] = []
        seen = {event.envelope.event_id}
        cause_id = event.envelope.causation_id
        while cause_id and cause_id not in seen and len(links) < CHAIN_EVENTS_MAX:
            seen.add(cause_id)
            cause = await self._find(cause_id)
            if cause is None:
                break
            links.append(cause)
            cause_id = cause.envelope.causation_id
        return links

    async def _find(self, event_id: str) -> RecordedEvent | None:
        if event_id not in self._known:
            self._known[event_id] = await self._log.find(EventId(event_id))
        return self._known[event_id]


async def effects_of(event_log: EventLog, request: ListEffectsRequest, clock: Clock) -> ListEffectsResponse:
    """Walk from an event to everything that it caused by a moment, breadth first.

    Raises:
        InvalidInput: a negative count; and as ``find_event``.
        NotFound, Ambiguous: as ``find_event``; the event was not there yet (EVENT_NOT_FOUND).
        OutOfRange: as ``moment_of``.
        Unavailable: the log did not answer in time.
    """
    if request.event_count_max < 0:
        raise InvalidInput(
            f"event_count_max is {request.event_count_max}", field_violations={"event_count_max": "negative"}
        )
    count_max = min(request.event_count_max or EFFECTS_DEFAULT, EFFECTS_MAX)
    event = await find_event(event_log, request.event_id)
    ends = await _ends(event_log, request.as_of, clock)
    if event.position > ends[event.envelope.lane]:
        raise NotFound(
            f"event {request.event_id} was not there yet at position {ends[Lane.LANE_DOMAIN]}",
            code="EVENT_NOT_FOUND",
        )
    names = RunNames(event_log)
    answer = ListEffectsResponse(
        event=event_view(event), sentence=sentence_of(event), run=await names.of(event)
    )
    reached = {event.envelope.event_id}
    level = deque([(event, 0)])
    while level and not answer.truncated:
        cause, depth = level.popleft()
        wanted = EventFilter(causation_id=cause.envelope.event_id)
        for lane, end in ends.items():
            async for effect in read_lane(event_log, lane, after=0, to=end, wanted=wanted):
                if effect.envelope.event_id in reached:
                    continue
                if len(answer.effects) == count_max:
                    answer.truncated = True
                    break
                reached.add(effect.envelope.event_id)
                answer.effects.append(await _effect(effect, depth + 1, names))
                level.append((effect, depth + 1))
    async for follower in _followers(event_log, event, reached, ends[Lane.LANE_DOMAIN]):
        if len(answer.followers) == count_max:
            answer.truncated = True
            break
        answer.followers.append(await _effect(follower, 0, names))
    return answer


async def _ends(event_log: EventLog, as_of: AsOf, clock: Clock) -> Mapping[Lane.ValueType, int]:
    position = (await moment_of(event_log, as_of, clock)).position
    telemetry: int = (await event_log.head()).telemetry_position
    if as_of.WhichOneof("at") is not None:
        telemetry = await telemetry_at(event_log, position, telemetry)
    return {Lane.LANE_DOMAIN: position, Lane.LANE_TELEMETRY: telemetry}


async def _followers(
    event_log: EventLog, event: RecordedEvent, reached: set[str], head: int
) -> AsyncGenerator[RecordedEvent, None]:
    after: int = event.position
    if event.envelope.lane == Lane.LANE_TELEMETRY:
        after = event.envelope.after_position
    wanted = EventFilter(correlation_id=event.envelope.correlation_id)
    async for follower in read_lane(event_log, Lane.LANE_DOMAIN, after=after, to=head, wanted=wanted):
        if follower.envelope.event_id not in reached:
            yield follower


async def _effect(event: RecordedEvent, depth: int, names: RunNames) -> Effect:
    return Effect(
        event=event_view(event), sentence=sentence_of(event), depth=depth, run=await names.of(event)
    )
