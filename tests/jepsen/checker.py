"""Holds histories against the log as it is in the end: pure, so that it can be shown to catch what it must.

What an append promises: acknowledged is there once, whole, at the positions told, and after everything
that was acknowledged before it was sent; refused is not there; unanswered is there once or not at all.
What following promises: every event of the lane, once, in order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.jepsen.history import Acknowledged, Event, Forged, Invoked, Record, Refused, Saw, Stored

_SHOWN_MAX = 5


@dataclass(slots=True)
class Command:
    """Everything that is known of a command."""

    lane: int
    events: Sequence[Event]
    first_invoked_ns: int
    acknowledged: list[Acknowledged] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def first_acknowledged_ns(self) -> int:
        return min(answer.at_ns for answer in self.acknowledged)


def violations(
    clients: Iterable[Sequence[Record]],
    watchers: Mapping[str, Sequence[Record]],
    stored: Sequence[Stored],
    *,
    lanes: Sequence[int] = (1, 2),
) -> list[str]:
    """Name every promise that was broken.

    Args:
        clients: the records of each writer.
        watchers: the records of each watcher, which saw the lanes from their beginning.
        stored: the whole log, as it is read in the end: by lane and position.
        lanes: what the watchers watch.
    """
    records = [record for client in clients for record in client]
    commands = _commands(records)
    found = list(_of_the_log_alone(stored))
    found += _of_the_commands(commands, stored)
    found += _of_what_nobody_asked_for(commands, records, stored)
    found += _of_real_time(commands, stored)
    for name, seen in watchers.items():
        told = [record for record in seen if isinstance(record, Saw)]
        found += _of_a_watcher(name, told, [event for event in stored if event.lane in lanes], commands)
    return found


def _commands(records: Sequence[Record]) -> dict[str, Command]:
    commands: dict[str, Command] = {}
    for record in records:
        if isinstance(record, Invoked):
            known = commands.setdefault(record.command_id, Command(record.lane, record.events, record.at_ns))
            known.first_invoked_ns = min(known.first_invoked_ns, record.at_ns)
    for record in records:
        if isinstance(record, Acknowledged):
            commands[record.command_id].acknowledged.append(record)
        elif isinstance(record, Refused):
            commands[record.command_id].refused.append(record.code)
    return commands


def _of_the_log_alone(stored: Sequence[Stored]) -> Iterator[str]:
    versions: Counter[str] = Counter()
    positions: Counter[int] = Counter()
    for event in stored:
        positions[event.lane] += 1
        if event.position != positions[event.lane]:
            yield f"lane {event.lane} has position {event.position} where {positions[event.lane]} belongs"
            positions[event.lane] = event.position
        versions[event.stream] += 1
        if event.version != versions[event.stream]:
            yield f"{event.stream} has version {event.version} where {versions[event.stream]} belongs"
            versions[event.stream] = event.version
    for event_id, count in Counter(event.event_id for event in stored).items():
        if count > 1:
            yield f"event {event_id} is stored {count} times"


def _of_the_commands(commands: Mapping[str, Command], stored: Sequence[Stored]) -> Iterator[str]:
    places = {event.event_id: event for event in stored}
    for command_id, command in commands.items():
        there = [places.get(event.event_id) for event in command.events]
        found = [event for event in there if event is not None]
        if command.acknowledged and len(found) < len(there):
            yield f"acknowledged command {command_id} is lost: it has {len(found)} of {len(there)} events"
        elif 0 < len(found) < len(there):
            yield f"command {command_id} is torn: {len(found)} of {len(there)} events"
        for answer in command.acknowledged:
            positions = tuple(event.position for event in found)
            if len(found) == len(there) and tuple(answer.positions) != positions:
                yield f"command {command_id} was told {answer.positions}, it is at {positions}"
        if command.refused and found:
            yield f"command {command_id} was refused ({command.refused[0]}) and is stored"
        if command.refused and command.acknowledged:
            yield f"command {command_id} was both refused and acknowledged"
        for asked, event in zip(command.events, there, strict=True):
            if event is not None and (asked.stream, asked.text, command.lane) != (
                event.stream, event.text, event.lane,
            ):  # fmt: skip
                yield f"event {asked.event_id} is stored with other content"


def _of_what_nobody_asked_for(
    commands: Mapping[str, Command], records: Sequence[Record], stored: Sequence[Stored]
) -> Iterator[str]:
    asked = {event.event_id for command in commands.values() for event in command.events}
    forged = {event.event_id for record in records if isinstance(record, Forged) for event in record.events}
    for event in stored:
        if event.event_id in forged:
            yield f"event {event.event_id} is stored under a command id that had other events"
        elif event.event_id not in asked:
            yield f"event {event.event_id} is stored, and nobody asked for it"


def _of_real_time(commands: Mapping[str, Command], stored: Sequence[Stored]) -> Iterator[str]:
    """What was sent after an answer came is behind what the answer told."""
    places = {event.event_id: event.position for event in stored}
    for lane in {event.lane for event in stored}:
        own = [command for command in commands.values() if command.lane == lane]
        answered = sorted(
            (command.first_acknowledged_ns, max(command.acknowledged[0].positions))
            for command in own
            if command.acknowledged
        )
        highest, next_answer = 0, 0
        for command in sorted(own, key=lambda command: command.first_invoked_ns):
            while next_answer < len(answered) and answered[next_answer][0] < command.first_invoked_ns:
                highest = max(highest, answered[next_answer][1])
                next_answer += 1
            positions = [places[event.event_id] for event in command.events if event.event_id in places]
            if positions and min(positions) < highest:
                yield (
                    f"event at position {min(positions)} of lane {lane} was sent after position {highest} "
                    "was acknowledged"
                )


def _of_a_watcher(
    name: str, seen: Sequence[Saw], stored: Sequence[Stored], commands: Mapping[str, Command]
) -> Iterator[str]:
    by_lane: defaultdict[int, list[Saw]] = defaultdict(list)
    for record in seen:
        by_lane[record.lane].append(record)
    for lane in {event.lane for event in stored} | set(by_lane):
        told = [Stored(s.lane, s.position, s.event_id, s.stream, s.version, s.text) for s in by_lane[lane]]
        yield from _differences(name, told, [event for event in stored if event.lane == lane])
    invoked = {
        event.event_id: command.first_invoked_ns for command in commands.values() for event in command.events
    }
    for record in seen:
        if record.at_ns < invoked.get(record.event_id, 0):
            yield f"watcher {name} saw event {record.event_id} before it was sent"


def _differences(name: str, told: Sequence[Stored], wanted: Sequence[Stored]) -> Iterator[str]:
    shown = 0
    for number, (seen, event) in enumerate(zip(told, wanted, strict=False), start=1):
        if seen != event:
            yield f"watcher {name} saw {_short(seen)} as number {number}, where the log has {_short(event)}"
            shown += 1
            if shown == _SHOWN_MAX:
                return
    if len(told) < len(wanted):
        yield f"watcher {name} saw {len(told)} of {len(wanted)} events of lane {wanted[0].lane}"
    if len(told) > len(wanted):
        yield f"watcher {name} saw {len(told)} events of lane {told[0].lane}, the log has {len(wanted)}"


def _short(event: Stored) -> str:
    return f"position {event.position} ({event.event_id}, {event.stream}@{event.version})"
