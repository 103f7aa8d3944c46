"""Disputed events: somebody said, with a reason, that they should not count. Rebuilds leave them out."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.events_pb2 import LogEventDisputed
from runyard_contracts.envelope import Context
from runyard_contracts.ids import CommandId, EventId, Position, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.decider import Decider
from runyard_core.errors import InvalidInput, NotFound, Rejected
from runyard_eventlog.handler import Executed, execute
from runyard_eventlog.port import EventFilter, EventLog

DISPUTED_TYPE = "runyard.log.event_disputed"
REASON_LENGTH_MAX = 1_000
_OWN_TYPES = ("runyard.log.", "runyard.projection.")
_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Dispute:
    """A command: this event should not count, or should count again."""

    event: RecordedEvent
    reason: str
    withdraw: bool


async def dispute(
    log: EventLog,
    event_id: str,
    reason: str,
    context: Context,
    *,
    withdraw: bool,
    command_id: CommandId,
    now: datetime,
) -> tuple[Executed, RecordedEvent]:
    """Append a dispute of an event, or take one back; gives the disputed event too.

    Raises:
        InvalidInput: there is no reason, or it is too long (BAD_REASON).
        NotFound: there is no such event (EVENT_NOT_FOUND).
        Rejected: it is disputed already (ALREADY_DISPUTED), is not (NOT_DISPUTED), or is one of those that
            tell of the log itself (NOT_DISPUTABLE).
        Unavailable: the log did not answer.
    """
    reason = reason.strip()
    if not reason or len(reason) > REASON_LENGTH_MAX:
        raise InvalidInput(
            f"say why, in 1 to {REASON_LENGTH_MAX} characters",
            code="BAD_REASON",
            field_violations={"reason": "missing or too long"},
        )
    event = await _find(log, event_id)
    executed = await execute(
        log,
        stream_name("log", f"dispute.{event.envelope.event_id}"),
        _DECIDER,
        Dispute(event, reason, withdraw),
        context,
        command_id=command_id,
        now=now,
    )
    return executed, event


async def disputed_events(log: EventLog, to_position: Position) -> frozenset[str]:
    """Give the ids of the events that are disputed at a position of the domain lane.

    Raises:
        Unavailable: the log did not answer.
    """
    disputed: set[str] = set()
    async for told in _told(log, to_position):
        _count(told.message, disputed)
    return frozenset(disputed)


async def disputed_since(log: EventLog, begun: Position, types: frozenset[str]) -> frozenset[str]:
    """Give the ids of the events of some types whose dispute was made, or taken back, after a position.

    Raises:
        Unavailable: the log did not answer.
    """
    before: set[str] = set()
    now: set[str] = set()
    async for told in _told(log, (await log.head()).domain_position):
        if isinstance(told.message, LogEventDisputed) and told.message.event_type in types:
            _count(told.message, now)
            if told.position <= begun:
                _count(told.message, before)
    return frozenset(before ^ now)


def undisputed(events: Iterable[RecordedEvent], disputed: frozenset[str]) -> list[RecordedEvent]:
    """Leave out what is disputed."""
    return [event for event in events if event.envelope.event_id not in disputed]


async def _told(log: EventLog, to_position: Position) -> AsyncIterator[RecordedEvent]:
    position = Position(0)
    while position < to_position:
        page = await log.read(
            Lane.LANE_DOMAIN,
            after_position=position,
            to_position=to_position,
            filter=EventFilter(types=(DISPUTED_TYPE,)),
            limit=_PAGE,
        )
        for event in page.events:
            yield event
        position = page.scanned_to


def _count(told: Message, disputed: set[str]) -> None:
    match told:
        case LogEventDisputed(withdrawn=True):
            disputed.discard(told.event_id)
        case LogEventDisputed():
            disputed.add(told.event_id)
        case _:
            pass


async def _find(log: EventLog, event_id: str) -> RecordedEvent:
    try:
        event = await log.find(EventId(str(uuid.UUID(event_id))))
    except ValueError:
        event = None
    if event is None:
        raise NotFound(f"there is no event {event_id!r}", code="EVENT_NOT_FOUND")
    return event


def _decide(is_disputed: bool, command: Dispute) -> list[LogEventDisputed]:
    event = command.event
    if event.type.startswith(_OWN_TYPES):
        raise Rejected(f"{event.type} tells of the log itself and always counts", code="NOT_DISPUTABLE")
    if is_disputed and not command.withdraw:
        raise Rejected(f"event {event.envelope.event_id} is disputed already", code="ALREADY_DISPUTED")
    if command.withdraw and not is_disputed:
        raise Rejected(f"event {event.envelope.event_id} is not disputed", code="NOT_DISPUTED")
    return [
        LogEventDisputed(
            event_id=event.envelope.event_id,
            event_type=event.type,
            event_stream=event.envelope.stream,
            event_position=event.position,
            reason=command.reason,
            withdrawn=command.withdraw,
        )
    ]


def _evolve(_: bool, event: LogEventDisputed) -> bool:
    return not event.withdrawn


_DECIDER: Decider[bool, Dispute, LogEventDisputed] = Decider(initial=False, decide=_decide, evolve=_evolve)
