"""Every projection gives the same rows however its events came to it: the six forms of replay equality.

Rebuilt in one batch is what the other forms are compared with. In PostgreSQL the same is done by
``runyard history verify --projections`` and by ``test_replay_equality_in_postgres``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import RowKey
from runyard_eventlog.projection_store import PlaceMovedError
from runyard_replay.exports import FILES, read_events, read_manifest
from tests.replay.every_projection import EVERY, Subject, found
from tests.replay.made_histories import made_history
from tests.replay.memory_build import Build, Filler

pytestmark = pytest.mark.system

HISTORIES = Path(__file__).parent / "histories"
RECORDED = sorted(folder.parent.name for folder in HISTORIES.glob("*/manifest.json"))
MADE_EVENTS_MAX = 30


def test_no_projection_is_left_out() -> None:
    assert {type(subject.projection) for subject in EVERY} == set(found())


def test_there_are_recorded_histories() -> None:
    assert len(RECORDED) >= 4


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("subject", EVERY, ids=str)
def test_a_recorded_history_gives_the_same_rows_in_every_form(subject: Subject, name: str) -> None:
    history = recorded(name, subject.lane)
    assert in_every_form(subject, history, Random(name)).parked == {}


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(chance=st.randoms(use_true_random=False), size=st.integers(0, MADE_EVENTS_MAX))
@pytest.mark.parametrize("subject", EVERY, ids=str)
def test_a_made_history_gives_the_same_rows_in_every_form(
    subject: Subject, chance: Random, size: int
) -> None:
    in_every_form(subject, made_history(chance, subject.lane, size), chance)


def test_the_recorded_histories_give_every_projection_something_to_do() -> None:
    for subject in EVERY:
        if subject.projection.name == "registry":
            continue  # Datasets and models are younger than the recordings.
        histories = [recorded(name, subject.lane) for name in RECORDED]
        assert any(rebuilt(subject, history).rows for history in histories), str(subject)


def in_every_form(subject: Subject, history: Sequence[RecordedEvent], chance: Random) -> Build:
    """Check all six forms; gives the rebuilt one."""
    whole = rebuilt(subject, history)
    expected = whole.content()
    assert live(subject, history, chance).content() == expected
    for batch_max in (1, 7):
        assert rebuilt(subject, history, batch_max).content() == expected
    assert killed_after_every_event(subject, history).content() == expected
    assert delivered_twice(subject, history).content() == expected
    assert two_processes(subject, history, chance).content() == expected
    check_interleaved(subject, history, whole, chance)
    return whole


def rebuilt(subject: Subject, history: Sequence[RecordedEvent], batch_max: int = 1_000) -> Build:
    build = Build(subject)
    filler = Filler(build, history)
    while not filler.is_done:
        filler.step(batch_max)
    return build


def live(subject: Subject, history: Sequence[RecordedEvent], chance: Random) -> Build:
    """The log grows, and each time all that is new is folded."""
    build, seen = Build(subject), 0
    while seen < len(history):
        seen += chance.randrange(1, 20)
        filler = Filler(build, history[:seen])
        while not filler.is_done:
            filler.step(5)
    return build


def killed_after_every_event(subject: Subject, history: Sequence[RecordedEvent]) -> Build:
    """Each process dies with a batch unfinished, keeps one event, and dies with the next batch unfinished."""
    build = Build(subject)
    while True:
        filler = Filler(build, history)
        if filler.is_done:
            return build
        filler.step(3, dies=True)
        filler.step(1)
        if not filler.is_done:
            filler.step(3, dies=True)


def delivered_twice(subject: Subject, history: Sequence[RecordedEvent]) -> Build:
    build = Build(subject)
    filler = Filler(build, history)
    while not filler.is_done:
        before = build.place()
        filler.step(7)
        with pytest.raises(PlaceMovedError):
            filler.redeliver(before, 7)
    return build


def two_processes(subject: Subject, history: Sequence[RecordedEvent], chance: Random) -> Build:
    """Both fold; whoever finds that the other was faster looks where the build is, and goes on."""
    build = Build(subject)
    fillers = [Filler(build, history), Filler(build, history)]
    while not fillers[0].is_done:
        number = chance.randrange(2)
        try:
            fillers[number].step(chance.randrange(1, 9))
        except PlaceMovedError:
            fillers[number] = Filler(build, history)
    return build


def check_interleaved(
    subject: Subject, history: Sequence[RecordedEvent], expected: Build, chance: Random
) -> None:
    """Events that share no stream and no row come in another order: each key has the same rows."""
    order = interleaved(history, touched_rows(subject, history, expected), chance)
    placed = list(zip(history, order, strict=True))
    moved = [at_position(history[place], event.position) for event, place in placed]
    former: dict[int, int] = {event.position: history[place].position for event, place in placed}
    other = rebuilt(subject, moved)
    assert other.rows.keys() == expected.rows.keys()
    for key, rows in expected.rows.items():
        again = [told_at(subject, key.table, row, former) for _, row in sorted(other.rows[key].items())]
        assert again == [row for _, row in sorted(rows.items())], key


def touched_rows(
    subject: Subject, history: Sequence[RecordedEvent], expected: Build
) -> list[set[RowKey | str]]:
    """Give what each event reads and writes, and its stream."""
    written: dict[int, set[RowKey]] = {}
    for key, rows in expected.rows.items():
        for position in rows:
            written.setdefault(position, set()).add(key)
    return [
        {
            event.envelope.stream,
            *written.get(event.position, ()),
            *(subject.projection.reads(event) if event.type in subject.projection.event_types else ()),
        }
        for event in history
    ]


def interleaved(
    history: Sequence[RecordedEvent], touched: Sequence[set[RowKey | str]], chance: Random
) -> list[int]:
    """Give another order of the events' places, in which those that touch the same thing keep theirs."""
    waits_for: list[set[int]] = []
    last: dict[RowKey | str, int] = {}
    for place, things in enumerate(touched):
        waits_for.append({last[thing] for thing in things if thing in last})
        last.update(dict.fromkeys(things, place))
    order: list[int] = []
    done: set[int] = set()
    ready = [place for place, befores in enumerate(waits_for) if not befores]
    behind: dict[int, list[int]] = {}
    for place, befores in enumerate(waits_for):
        for before in befores:
            behind.setdefault(before, []).append(place)
    while ready:
        place = ready.pop(chance.randrange(len(ready)))
        order.append(place)
        done.add(place)
        ready += [each for each in behind.get(place, ()) if waits_for[each] <= done]
    assert len(order) == len(history)
    return order


def at_position(event: RecordedEvent, position: int) -> RecordedEvent:
    envelope = Envelope.FromString(event.envelope.SerializeToString())
    envelope.position = position
    return RecordedEvent(envelope, event.message)


def told_at(subject: Subject, table: str, row: Any, former: Mapping[int, int]) -> object:
    """Give a row as it would be, had its events been where they were."""
    values: dict[str, object] = {}
    is_tuple = isinstance(row, tuple)
    for name in row._fields if is_tuple else (field.name for field in dataclasses.fields(row)):
        value = getattr(row, name)
        if name.endswith("positions"):
            values[name] = tuple(former.get(each, each) for each in value)
        elif name.endswith("position") and name != "after_position":
            values[name] = former.get(value, value)
    if table in subject.documents:
        document = subject.documents[table].FromString(row.document)
        _move_back(document, former)
        values["document"] = document.SerializeToString(deterministic=True)
    return row._replace(**values) if is_tuple else dataclasses.replace(row, **values)


def _move_back(message: Message, former: Mapping[int, int]) -> None:
    for field, value in message.ListFields():
        if field.name.endswith("position"):
            setattr(message, field.name, former.get(value, value))
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                _move_back(each, former)


@cache
def recorded(name: str, lane: Lane.ValueType) -> Sequence[RecordedEvent]:
    """Read a lane of a recorded history."""
    return list(_read(HISTORIES / name, lane))


def _read(folder: Path, lane: Lane.ValueType) -> Iterator[RecordedEvent]:
    for entry in read_manifest(folder).files:
        if entry.name == FILES[lane]:
            yield from map(RecordedEvent, read_events(folder, entry))
