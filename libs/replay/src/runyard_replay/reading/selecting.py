"""Which events of a lane somebody wants: what the log itself can filter, and what is looked at afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import EventFilter as Wanted
from runyard_contracts.envelope import actor_name
from runyard_contracts.ids import Position, is_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import InvalidInput
from runyard_eventlog.port import PAGE_BYTES_MAX, EventFilter, EventLog, Page
from runyard_eventlog.positions import last_where, time_asked_for
from runyard_replay.reading.pages import PAGE_BATCHES


@dataclass(frozen=True, slots=True)
class Selection:
    """A checked filter."""

    log_filter: EventFilter
    node_id: str
    """Events of this node's stream and agent; empty means all."""

    def has(self, event: RecordedEvent) -> bool:
        """Say whether an event that the log gave is wanted."""
        envelope = event.envelope
        return self.node_id == "" or (
            envelope.stream == f"node-{self.node_id}" or actor_name(envelope.actor) == f"agent:{self.node_id}"
        )


def selection_of(wanted: Wanted) -> Selection:
    """Check a filter.

    Raises:
        InvalidInput: an actor or node that cannot be (BAD_FILTER).
    """
    if wanted.node_id and not is_name(wanted.node_id):
        raise _bad_filter("node_id", f"{wanted.node_id!r} is not a node's name")
    if wanted.actor and wanted.actor.partition(":")[0] not in {"user", "agent", "service"}:
        raise _bad_filter("actor", f'{wanted.actor!r}: want "user:ID", "agent:NODE" or "service:NAME"')
    return Selection(
        EventFilter(
            types=tuple(wanted.types),
            streams=(wanted.stream,) if wanted.stream else (),
            correlation_id=wanted.correlation_id,
            actor=wanted.actor,
        ),
        wanted.node_id,
    )


async def bounds_of(event_log: EventLog, lane: Lane.ValueType, wanted: Wanted, head: int) -> tuple[int, int]:
    """Give the positions that a filter's times mean: behind the first one, up to the second.

    Raises:
        InvalidInput: no calendar has one of them (BAD_TIME).
        Unavailable: the log did not answer in time.
    """
    after, to = 0, head
    if wanted.HasField("recorded_from"):
        after = await last_where(event_log, lane, head, _recorded_before(wanted.recorded_from))
    if wanted.HasField("recorded_to"):
        to = await last_where(event_log, lane, head, _recorded_before(wanted.recorded_to))
    return after, to


async def select_page(
    event_log: EventLog,
    lane: Lane.ValueType,
    selection: Selection,
    *,
    after: int,
    to: int,
    limit: int,
    descending: bool = False,
) -> Page:
    """Read one page of what is wanted, as ``EventLog.read`` does; at most half as many bytes again.

    Raises:
        Unavailable: the log did not answer in time.
    """
    found: list[RecordedEvent] = []
    room = PAGE_BYTES_MAX
    # A page of everything may hold little that is wanted, and telemetry is large.
    size = limit if not selection.node_id else PAGE_BATCHES
    while after < to:
        page = await event_log.read(
            lane,
            after_position=Position(after),
            to_position=Position(to),
            filter=selection.log_filter,
            limit=size,
            descending=descending,
        )
        for event in page.events:
            if selection.has(event):
                found.append(event)
                room -= event.envelope.ByteSize()
                if len(found) == limit:
                    return Page(found, event.position, is_full=True)
        if not page.is_full:
            return Page(found, page.scanned_to)
        if room < PAGE_BYTES_MAX // 2:
            return Page(found, page.scanned_to, is_full=True)
        if descending:
            to = page.scanned_to - 1
        else:
            after = page.scanned_to
    return Page(found, Position(after + 1 if descending else to))


def _recorded_before(time: Timestamp) -> Callable[[RecordedEvent], bool]:
    moment = time_asked_for(time)
    return lambda event: event.envelope.recorded_at.ToDatetime(tzinfo=UTC) < moment


def _bad_filter(field: str, problem: str) -> InvalidInput:
    return InvalidInput(problem, code="BAD_FILTER", field_violations={f"filter.{field}": problem})
