"""Everything that happened to a thing, in one order over both lanes."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import (
    ReadTimelineRequest,
    SubjectKind,
    TimelineEntry,
    TimelineFlag,
    TimelineFlagKind,
)
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput
from runyard_eventlog.port import EventLog
from runyard_eventlog.positions import telemetry_at
from runyard_replay.folding.gaps import GapWatch, incompleteness
from runyard_replay.folding.order import recording_delay_milliseconds
from runyard_replay.folding.sentences import sentence_of
from runyard_replay.reading.causes import Causes
from runyard_replay.reading.merging import in_order
from runyard_replay.reading.moments import moment_of
from runyard_replay.reading.run_names import RunNames
from runyard_replay.reading.scope import Scope, Span
from runyard_replay.reading.scopes import committed_sequence, scope_of
from runyard_replay.reading.subjects import find_thing
from runyard_replay.views import cause_link, event_view, readable


async def read_timeline(
    event_log: EventLog, request: ReadTimelineRequest, clock: Clock
) -> AsyncGenerator[TimelineEntry, None]:
    """Give the entries of a timeline in order. Memory is that of the thing's domain events and a few pages.

    Raises:
        InvalidInput, NotFound, Ambiguous: as ``find_thing``; a begin behind the end (BAD_SPAN).
        OutOfRange: as ``moment_of``.
        Unavailable: the log did not answer in time.
    """
    heads = await event_log.head()
    end = await moment_of(event_log, request.end, clock)
    after = 0
    if request.HasField("begin"):
        after = (await moment_of(event_log, request.begin, clock)).position - 1
        if after >= end.position:
            raise InvalidInput(
                f"the timeline would begin at {after + 1}, behind its end at {end.position}", code="BAD_SPAN"
            )
    telemetry_to: int = heads.telemetry_position
    if request.HasField("end"):
        telemetry_to = await telemetry_at(event_log, end.position, telemetry_to)
    thing = await find_thing(event_log, request.subject, end.position)
    span = Span(after, end.position, telemetry_to)
    scope = await scope_of(event_log, thing, span)
    causes = Causes(event_log)
    for event in scope.domain.values():
        causes.remember(event)
    watch = GapWatch()
    names = None if thing.kind == SubjectKind.SUBJECT_KIND_RUN else RunNames(event_log)
    async for event in in_order(scope.sources(span, domain_only=request.domain_only)):
        entry = _entry(event, watch)
        entry.flags.extend(await _missing_at_end(event_log, scope, event))
        if names is not None:
            entry.run = await names.of(event)
        if request.with_causes:
            await _add_causes(entry, event, causes)
        yield entry


def _entry(event: RecordedEvent, watch: GapWatch) -> TimelineEntry:
    is_domain = event.envelope.lane == Lane.LANE_DOMAIN
    view = event_view(event, with_data=is_domain)
    if not is_domain:
        # A page of batches may be megabytes; who wants the samples reads them with ListEvents.
        view.envelope.ClearField("data")
    return TimelineEntry(
        event=view,
        sentence=sentence_of(event),
        flags=watch.flags(event, readable(event)),
        skew_milliseconds=recording_delay_milliseconds(event.envelope),
    )


async def _missing_at_end(event_log: EventLog, scope: Scope, event: RecordedEvent) -> list[TimelineFlag]:
    mark = scope.marks.get(event.position) if event.envelope.lane == Lane.LANE_DOMAIN else None
    if mark is None or not mark.spool_id:
        return []
    return incompleteness(mark, await committed_sequence(event_log, mark))


async def _add_causes(entry: TimelineEntry, event: RecordedEvent, causes: Causes) -> None:
    chain = await causes.chain(event)
    entry.causes.extend(cause_link(cause) for cause in chain)
    last = chain[-1] if chain else event
    if last.envelope.causation_id:
        entry.flags.append(
            TimelineFlag(
                kind=TimelineFlagKind.TIMELINE_FLAG_KIND_CAUSE_UNKNOWN,
                detail=f"its cause {last.envelope.causation_id} is not in the log, or too far back",
            )
        )
