"""From a command to its events in the log: load, fold, decide, append; and again when somebody was faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import CommandId, Position, StreamName, stream_category
from runyard_contracts.recorded import RecordedEvent
from runyard_core.decider import Decider
from runyard_core.errors import Conflict
from runyard_eventlog.admission import CATEGORY_LANES
from runyard_eventlog.port import READ_LIMIT_MAX, AppendCommand, Appended, EventLog, StreamAppend

TRIES_MAX = 5
"""How often a command is decided anew after a conflict."""

State = TypeVar("State")
Command = TypeVar("Command")
Event = TypeVar("Event")


@dataclass(frozen=True, slots=True)
class Executed:
    """What a command came to."""

    position: Position
    """Queries that wait for this position see the command's effect."""
    events: tuple[Message, ...]
    """The command's events; of a repeated command the first time's. Empty when it was already so."""
    repeated: bool = False
    """True when the log had this command already."""


@dataclass(frozen=True, slots=True)
class Part(Generic[State, Event]):
    """One stream that a command looks at, and how its state is made."""

    stream: StreamName
    decider: Decider[State, Any, Event]


async def execute(
    log: EventLog,
    stream: StreamName,
    decider: Decider[State, Command, Event],
    command: Command,
    context: Context,
    *,
    command_id: CommandId,
    now: datetime,
    request_digest: bytes = b"",
) -> Executed:
    """Run a command on one stream.

    Args:
        log: the log.
        stream: the stream that the command changes.
        decider: its rules.
        command: carries the time, ids and prices that the decision needs.
        context: who asks, and why.
        command_id: idempotency key: a repeat gets the first answer, without deciding again.
        now: the events' occurred_at.
        request_digest: SHA-256 of the request, compared on a repeat.

    Raises:
        Rejected: the domain says no.
        Conflict: the stream kept changing.
        IdReused: the command id came before with another request.
        Unavailable: the log did not answer; trying again with the same command id is safe.
    """

    def decide(states: Sequence[Any]) -> Mapping[StreamName, Sequence[Message]]:
        return {stream: cast("list[Message]", decider.decide(states[0], command))}

    return await execute_over(
        log,
        [Part(stream, decider)],
        decide,
        context,
        command_id=command_id,
        now=now,
        request_digest=request_digest,
    )


async def execute_over(
    log: EventLog,
    parts: Sequence[Part[Any, Any]],
    decide: Callable[[Sequence[Any]], Mapping[StreamName, Sequence[Message]]],
    context: Context,
    *,
    command_id: CommandId,
    now: datetime,
    request_digest: bytes = b"",
) -> Executed:
    """Run a command over several streams at once: all of its events are appended, or none.

    Args:
        log: the log.
        parts: the streams that it looks at; ``decide`` gets their states in this order.
        decide: gives the events for each stream, of those in ``parts``. Only streams that get events are
            protected against changes since they were read.
        context: as in ``execute``.
        command_id: as in ``execute``.
        now: as in ``execute``.
        request_digest: as in ``execute``.

    Raises:
        Rejected, Conflict, IdReused, Unavailable: as ``execute``.
    """
    first = await log.find_command(command_id, request_digest)
    if first is not None:
        return await _first_answer(log, parts[0].stream, first)
    for tries_left in reversed(range(TRIES_MAX)):
        histories = [await load(log, part.stream) for part in parts]
        states = [
            part.decider.fold(event.message for event in history)
            for part, history in zip(parts, histories, strict=True)
        ]
        versions = {part.stream: len(history) for part, history in zip(parts, histories, strict=True)}
        decided = {stream: events for stream, events in decide(states).items() if events}
        if not decided:
            last = max((history[-1].position for history in histories if history), default=Position(0))
            return Executed(last, ())
        appends = [
            StreamAppend(stream, versions[stream], [wrap(event, stream, context, now) for event in events])
            for stream, events in decided.items()
        ]
        try:
            appended = await log.append(AppendCommand(command_id, appends, request_digest))
        except Conflict:
            if not tries_left:
                raise
            continue
        if appended.repeated:
            return await _first_answer(log, parts[0].stream, appended)
        return Executed(appended.position, tuple(event for events in decided.values() for event in events))
    raise AssertionError("unreachable")


async def load(log: EventLog, stream: StreamName) -> list[RecordedEvent]:
    """Read a whole stream.

    Raises:
        Unavailable: the log did not answer in time.
    """
    history: list[RecordedEvent] = []
    while True:
        page = await log.read_stream(stream, after_version=len(history))
        history.extend(page)
        if len(page) < READ_LIMIT_MAX:
            return history


async def load_appended(log: EventLog, lane: Lane.ValueType, appended: Appended) -> list[RecordedEvent]:
    """Read the events of one command.

    Raises:
        Unavailable: the log did not answer in time.
    """
    events: list[RecordedEvent] = []
    position = Position(appended.positions[0] - 1)
    while position < appended.position:
        page = await log.read(lane, after_position=position, to_position=appended.position)
        events += page.events
        position = page.scanned_to
    return events


async def _first_answer(log: EventLog, stream: StreamName, first: Appended) -> Executed:
    lane = CATEGORY_LANES.get(stream_category(stream), Lane.LANE_DOMAIN)
    events = await load_appended(log, lane, first)
    return Executed(first.position, tuple(event.message for event in events), repeated=True)
