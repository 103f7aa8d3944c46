"""What differs between two moments."""

from __future__ import annotations

from collections.abc import Mapping

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import (
    DiffStatesRequest,
    DiffStatesResponse,
    EventCount,
    SubjectKind,
)
from runyard_contracts.ids import stream_id, stream_name
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, NotFound
from runyard_eventlog.port import EVERYTHING, EventFilter, EventLog
from runyard_replay.folding import leases, queue
from runyard_replay.folding.fields import changes_between, flat
from runyard_replay.reading.moments import Moment, moment_of
from runyard_replay.reading.naming import ALIAS, CATEGORIES
from runyard_replay.reading.pages import read_lane
from runyard_replay.reading.states import state_of, thing_as_of
from runyard_replay.reading.subjects import Thing, find_thing, or_yard

_CATEGORIES = {
    SubjectKind.SUBJECT_KIND_RUN: "run",
    SubjectKind.SUBJECT_KIND_NODE: "node",
    SubjectKind.SUBJECT_KIND_FILE: "artifact",
    **CATEGORIES,
}
_FILTERS = {
    SubjectKind.SUBJECT_KIND_QUEUE: EventFilter(types=queue.EVENT_TYPES),
    SubjectKind.SUBJECT_KIND_GPUS: EventFilter(types=("runyard.node.",)),
    SubjectKind.SUBJECT_KIND_COST: EventFilter(types=leases.EVENT_TYPES),
    SubjectKind.SUBJECT_KIND_PRICES: EventFilter(types=("runyard.price.",)),
    SubjectKind.SUBJECT_KIND_PROJECT: EventFilter(categories=("project", ALIAS, *CATEGORIES.values())),
}


async def diff_states(event_log: EventLog, request: DiffStatesRequest, clock: Clock) -> DiffStatesResponse:
    """Compare a thing at two moments. Where it was not there yet, every field is new.

    Raises:
        InvalidInput: the first moment is behind the second (BAD_SPAN); and as ``find_thing``.
        NotFound, Ambiguous: as ``find_thing``, at the second moment.
        OutOfRange: as ``moment_of``.
        Unavailable: the log did not answer in time.
    """
    begin = await moment_of(event_log, request.begin, clock)
    end = await moment_of(event_log, request.end, clock)
    if begin.position > end.position:
        raise InvalidInput(
            f"the first moment ({begin.position}) is behind the second ({end.position})", code="BAD_SPAN"
        )
    thing = await find_thing(event_log, or_yard(request.subject), end.position)
    answer = DiffStatesResponse(from_position=begin.position, to_position=end.position)
    before, after = await _fields(event_log, thing, begin), await _fields(event_log, thing, end)
    answer.changes.extend(changes_between(before, after))
    answer.events.extend(await _counted(event_log, thing, begin.position, end.position))
    return answer


async def _fields(event_log: EventLog, thing: Thing, moment: Moment) -> Mapping[str, str]:
    try:
        return flat(state_of(await thing_as_of(event_log, thing, moment)))
    except NotFound:
        return {}


async def _counted(event_log: EventLog, thing: Thing, after: int, to: int) -> list[EventCount]:
    category = _CATEGORIES.get(thing.kind)
    wanted = _FILTERS.get(thing.kind, EVERYTHING)
    if category is not None:
        wanted = EventFilter(streams=(stream_name(category, thing.id),))
    counts: dict[str, EventCount] = {}
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=after, to=to, wanted=wanted):
        project = stream_id(event.envelope.stream).partition(".")[0]
        if thing.kind == SubjectKind.SUBJECT_KIND_PROJECT and project != thing.id:
            continue
        count = counts.setdefault(event.type, EventCount(type=event.type, first_position=event.position))
        count.event_count += 1
        count.last_position = event.position
    return sorted(counts.values(), key=lambda count: (-count.event_count, count.type))
