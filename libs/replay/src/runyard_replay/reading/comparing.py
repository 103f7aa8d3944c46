"""What differs between two moments."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import (
    DiffStatesRequest,
    DiffStatesResponse,
    EventCount,
    FieldChange,
    GetStateAsOfResponse,
    QueuedRun,
    QueueState,
    SubjectKind,
)
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.ids import stream_id, stream_name
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, NotFound, Rejected
from runyard_eventlog.port import EVERYTHING, EventFilter, EventLog
from runyard_replay.folding import leases, queue
from runyard_replay.folding.fields import changes_between, flat
from runyard_replay.reading.moments import Moment, moment_of
from runyard_replay.reading.naming import ALIAS, CATEGORIES
from runyard_replay.reading.pages import read_lane
from runyard_replay.reading.queues import Queues
from runyard_replay.reading.states import Part, Parts, state_of, thing_as_of
from runyard_replay.reading.subjects import Thing, find_thing, or_yard

CHANGES_DEFAULT = 1_000
CHANGES_MAX = 10_000
"""Most changes of one answer: a hundred times as many would not go into a message."""
COMPARED_RUNS_MAX = 200_000
"""Most waiting runs of a queue that is compared: some 100 MB for each of both moments."""
_QUEUED = RunState.RUN_STATE_QUEUED
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


async def diff_states(
    event_log: EventLog, request: DiffStatesRequest, clock: Clock, queues: Queues | None = None
) -> DiffStatesResponse:
    """Compare a thing at two moments. Where it was not there yet, every field is new.

    Args:
        event_log: what to read.
        request: the thing and the moments.
        clock: what now is.
        queues: what is remembered of the queue.

    Raises:
        InvalidInput: the first moment is behind the second (BAD_SPAN); fewer changes than 0, or too many at
            once (BAD_PAGE_SIZE); and as ``find_thing``.
        NotFound, Ambiguous: as ``find_thing``, at the second moment.
        Rejected: a queue of more than ``COMPARED_RUNS_MAX`` runs (QUEUE_TOO_LONG).
        OutOfRange: as ``moment_of``.
        Unavailable: the log did not answer in time.
    """
    if request.changes_skipped < 0 or not 0 <= request.changes_max <= CHANGES_MAX:
        raise InvalidInput(
            f"changes_skipped is 0 or more, changes_max at most {CHANGES_MAX}", code="BAD_PAGE_SIZE"
        )
    begin = await moment_of(event_log, request.begin, clock)
    end = await moment_of(event_log, request.end, clock)
    if begin.position > end.position:
        raise InvalidInput(
            f"the first moment ({begin.position}) is behind the second ({end.position})", code="BAD_SPAN"
        )
    thing = await find_thing(event_log, or_yard(request.subject), end.position)
    answer = DiffStatesResponse(from_position=begin.position, to_position=end.position)
    queues = queues or Queues(event_log)
    before = await _state(event_log, thing, begin, queues)
    after = await _state(event_log, thing, end, queues)
    limit = request.changes_max or CHANGES_DEFAULT
    page = islice(_changes(before, after), request.changes_skipped, request.changes_skipped + limit + 1)
    answer.changes.extend(page)
    if len(answer.changes) > limit:
        answer.has_more_changes = True
        del answer.changes[limit:]
    answer.events.extend(await _counted(event_log, thing, begin.position, end.position))
    return answer


async def _state(event_log: EventLog, thing: Thing, moment: Moment, queues: Queues) -> Message | None:
    try:
        parts = Parts(waiting=Part(limit=COMPARED_RUNS_MAX))
        shown = await thing_as_of(event_log, thing, moment, queues, parts)
    except NotFound:
        return None
    waiting = sum(count.run_count for count in shown.queue.counts if count.state == _QUEUED)
    if waiting > COMPARED_RUNS_MAX:
        raise Rejected(
            f"{waiting} runs waited at position {moment.position}, at most {COMPARED_RUNS_MAX} are compared: "
            "see them as of each of both moments, in pages",
            code="QUEUE_TOO_LONG",
            metadata={"waiting": str(waiting)},
        )
    return state_of(shown)


def _changes(before: Message | None, after: Message | None) -> Iterator[FieldChange]:
    """Give the fields that differ; of a queue run after run, as all of them at once may be a million."""
    was, runs = _take_waiting(before), _take_waiting(after)
    show = _show_within_yard if isinstance(after, GetStateAsOfResponse) else _show
    for run_id, run in runs.items():
        if (former := was.get(run_id)) != run:
            yield from changes_between(flat(show(former)), flat(show(run)))
    yield from changes_between(flat(before), flat(after))
    for run_id, run in was.items():
        if run_id not in runs:
            yield from changes_between(flat(show(run)), {})


def _take_waiting(state: Message | None) -> dict[str, QueuedRun]:
    """Take the waiting runs out of a state, without what differs at every other moment."""
    queue_state = state.queue if isinstance(state, GetStateAsOfResponse) else state
    if not isinstance(queue_state, QueueState):
        return {}
    runs = {run.run_id: run for run in queue_state.waiting}
    for run in runs.values():
        run.ClearField("waited_milliseconds")
    del queue_state.waiting[:]
    return runs


def _show(run: QueuedRun | None) -> QueueState | None:
    return QueueState(waiting=[run]) if run is not None else None


def _show_within_yard(run: QueuedRun | None) -> GetStateAsOfResponse | None:
    return GetStateAsOfResponse(queue=_show(run)) if run is not None else None


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
