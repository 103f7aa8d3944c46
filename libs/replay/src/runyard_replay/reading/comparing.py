"""What differs between two moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from runyard_contracts.answer_size import items_that_fit
from runyard_contracts.ids import StreamName, stream_id, stream_name
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, NotFound, Rejected
from runyard_eventlog.port import EVERYTHING, EventFilter, EventLog
from runyard_eventlog.stream_index import StreamIndex
from runyard_replay.folding import leases, queue
from runyard_replay.folding.fields import changes_between, flat
from runyard_replay.reading.moments import Moment, moment_of
from runyard_replay.reading.naming import ALIAS, CATEGORIES
from runyard_replay.reading.pages import read_lane
from runyard_replay.reading.queues import Queues
from runyard_replay.reading.some_runs import fold_runs
from runyard_replay.reading.states import Part, Parts, state_of, thing_as_of
from runyard_replay.reading.subjects import Thing, find_thing, or_yard

CHANGES_DEFAULT = 1_000
CHANGES_MAX = 10_000
"""Most changes of one answer: a hundred times as many would not go into a message."""
COMPARED_RUNS_MAX = 200_000
"""Most waiting runs of a queue that is compared: some 100 MB for each of both moments."""
_Runs = Mapping[str, QueuedRun]
"""By run id, in the order of the queue."""
_QUEUED = RunState.RUN_STATE_QUEUED
_WITH_QUEUE = (SubjectKind.SUBJECT_KIND_QUEUE, SubjectKind.SUBJECT_KIND_YARD)
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
        Rejected: a queue of more than ``COMPARED_RUNS_MAX`` runs (QUEUE_TOO_LONG); as ``Queues.shown``.
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
    between = await _events_between(event_log, thing, begin.position, end.position)
    answer.events.extend(between.counts)
    before = await _state(event_log, thing, begin, queues)
    after = await _state(event_log, thing, end, queues)
    waiting_count = _waiting_count(before) + _waiting_count(after)
    moved = between.run_streams if len(between.run_streams) < waiting_count else None
    was, runs = await _waiting(queues, thing, (begin, end), moved)
    changes = islice(_changes(before, after, was, runs), request.changes_skipped, None)
    listed = items_that_fit(changes, count_max=request.changes_max or CHANGES_DEFAULT)
    answer.changes.extend(listed.items)
    answer.has_more_changes = listed.has_more
    return answer


async def _state(event_log: EventLog, thing: Thing, moment: Moment, queues: Queues) -> Message | None:
    """Give a state; of a queue the counts."""
    try:
        shown = await thing_as_of(event_log, thing, moment, queues, Parts(waiting=Part(limit=0)))
    except NotFound:
        return None
    state = state_of(shown)
    if (waiting := _waiting_count(state)) > COMPARED_RUNS_MAX:
        raise Rejected(
            f"{waiting} runs waited at position {moment.position}, at most {COMPARED_RUNS_MAX} are compared: "
            "see them as of each of both moments, in pages",
            code="QUEUE_TOO_LONG",
            metadata={"waiting": str(waiting)},
        )
    return state


def _waiting_count(state: Message | None) -> int:
    queue_state = state.queue if isinstance(state, GetStateAsOfResponse) else state
    counts = queue_state.counts if isinstance(queue_state, QueueState) else ()
    return sum(count.run_count for count in counts if count.state == _QUEUED)


async def _waiting(
    queues: Queues, thing: Thing, moments: Sequence[Moment], moved: Sequence[StreamName] | None
) -> list[_Runs]:
    """Give the runs that waited at moments; of a log with an index, only those that moved in between."""
    if thing.kind not in _WITH_QUEUE:
        return [{} for _ in moments]
    index = await queues.index()
    if index is not None and moved is not None:
        runs = [await _moved_runs(index, moved, thing.id, moment) for moment in moments]
        if await queues.index() is not None:
            return runs
        # A partition was detached meanwhile.
    return [await _all_runs(queues, thing.id, moment) for moment in moments]


async def _moved_runs(index: StreamIndex, moved: Sequence[StreamName], project: str, moment: Moment) -> _Runs:
    waiting = (await fold_runs(index, moved, moment.position)).waiting(project)
    return {waiting[place].run_id: waiting[place] for place in sorted(waiting)}


async def _all_runs(queues: Queues, project: str, moment: Moment) -> _Runs:
    waiting = (await queues.shown(moment, project, limit=COMPARED_RUNS_MAX)).waiting
    for run in waiting:
        # It differs at every other moment.
        run.ClearField("waited_milliseconds")
    return {run.run_id: run for run in waiting}


def _changes(before: Message | None, after: Message | None, was: _Runs, runs: _Runs) -> Iterator[FieldChange]:
    """Give the fields that differ; of a queue run after run, as all of them at once may be a million."""
    show = _show_within_yard if isinstance(after, GetStateAsOfResponse) else _show
    for run_id, run in runs.items():
        if (former := was.get(run_id)) != run:
            yield from changes_between(flat(show(former)), flat(show(run)))
    yield from changes_between(flat(before), flat(after))
    for run_id, run in was.items():
        if run_id not in runs:
            yield from changes_between(flat(show(run)), {})


def _show(run: QueuedRun | None) -> QueueState | None:
    return QueueState(waiting=[run]) if run is not None else None


def _show_within_yard(run: QueuedRun | None) -> GetStateAsOfResponse | None:
    return GetStateAsOfResponse(queue=_show(run)) if run is not None else None


@dataclass(frozen=True, slots=True)
class _Between:
    """What happened to a thing between two moments."""

    counts: Sequence[EventCount]
    run_streams: Sequence[StreamName]
    """Of runs that may wait no more, or wait now: of a queue, and not many more than are compared."""


async def _events_between(event_log: EventLog, thing: Thing, after: int, to: int) -> _Between:
    category = _CATEGORIES.get(thing.kind)
    wanted = _FILTERS.get(thing.kind, EVERYTHING)
    if category is not None:
        wanted = EventFilter(streams=(stream_name(category, thing.id),))
    counts: dict[str, EventCount] = {}
    run_streams: dict[StreamName, None] = {}
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=after, to=to, wanted=wanted):
        stream = StreamName(event.envelope.stream)
        project = stream_id(stream).partition(".")[0]
        if thing.kind == SubjectKind.SUBJECT_KIND_PROJECT and project != thing.id:
            continue
        count = counts.setdefault(event.type, EventCount(type=event.type, first_position=event.position))
        count.event_count += 1
        count.last_position = event.position
        if event.type in queue.EVENT_TYPES and len(run_streams) <= 2 * COMPARED_RUNS_MAX:
            run_streams[stream] = None
    ordered = sorted(counts.values(), key=lambda count: (-count.event_count, count.type))
    return _Between(ordered, list(run_streams))
