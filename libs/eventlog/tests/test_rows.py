"""Rows of the log back into events: the same ones, however somebody goes through them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import asyncpg
import pytest
from google.protobuf.message import DecodeError

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog import rows
from runyard_eventlog.stored_event import RECORDED_EPOCH

FIRST_POSITION = 70_000
BEGUN = datetime(2026, 11, 22, 23, 59, 59, 999_990, tzinfo=UTC)


def stored(count: int) -> list[Envelope]:
    """Make envelopes as they are read: every third has the time of the one before, and one is long."""
    context = Context(parse_actor("user:alice"), "c", "/test")
    envelopes = []
    for number in range(count):
        message = RunQueued(run_id=f"r{number}", title="x" * (9_000 if number == 7 else number))
        envelope = wrap(message, stream_name("run", message.run_id), context, BEGUN)
        envelope.position, envelope.after_position = FIRST_POSITION + number, number * 50
        envelope.recorded_at.FromDatetime(BEGUN + timedelta(microseconds=number - (number % 3 == 1)))
        envelopes.append(envelope)
    return envelopes


def row(envelope: Envelope) -> tuple[int, bytes, bytes]:
    """Give what the database has of it."""
    at = envelope.recorded_at.ToDatetime(UTC)
    bare = Envelope.FromString(envelope.SerializeToString())
    for name in ("position", "recorded_at", "after_position"):
        bare.ClearField(name)
    return envelope.position, rows.added_raw(at, envelope.after_position), bare.SerializeToString()


def found(envelopes: Sequence[Envelope]) -> Sequence[RecordedEvent]:
    return rows.events(cast("list[asyncpg.Record]", [row(one) for one in envelopes]))


def seen(events: Sequence[RecordedEvent]) -> list[Envelope]:
    assert all(event.position == event.envelope.position for event in events)
    return [event.envelope for event in events]


@pytest.mark.parametrize("count", [0, 1, 100, 101, 250])
def test_events_are_what_was_stored_and_what_the_log_adds(count: int) -> None:
    envelopes = stored(count)
    events = found(envelopes)
    assert len(events) == count
    assert bool(events) == bool(count)
    assert seen(events) == seen(events) == envelopes


def test_events_of_many_rows_are_found_by_their_places_too() -> None:
    envelopes = stored(250)
    events = found(envelopes)
    for index in (0, 249, -1, 99, 100, 200, 7, -250, 101):
        assert events[index].envelope == envelopes[index]
    for some in (slice(None), slice(40, 180), slice(-3, None), slice(0), slice(None, None, -1)):
        assert seen(events[some]) == envelopes[some]
    for outside in (250, -251):
        with pytest.raises(IndexError):
            events[outside]


def test_events_are_decoded_as_somebody_comes_to_them() -> None:
    given = [row(one) for one in stored(250)]
    given[150] = (*given[150][:2], b"no envelope")
    events = iter(rows.events(cast("list[asyncpg.Record]", given)))
    assert [next(events).position - FIRST_POSITION for _ in range(100)] == list(range(100))
    with pytest.raises(DecodeError):
        next(events)


def test_a_row_without_a_position_is_no_event() -> None:
    assert list(rows.events(cast("list[asyncpg.Record]", [(None, None, None, 1)]))) == []


@pytest.mark.parametrize(
    "at",
    [
        *(RECORDED_EPOCH, RECORDED_EPOCH - timedelta(microseconds=1), BEGUN),
        *(datetime(1969, 12, 31, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
@pytest.mark.parametrize("after_position", [0, 1, 127, 128, 2**63 - 1])
def test_times_and_positions_are_read_as_the_library_writes_them(at: datetime, after_position: int) -> None:
    (envelope,) = stored(1)
    envelope.recorded_at.FromDatetime(at)
    envelope.after_position = after_position
    assert seen(found([envelope])) == [envelope]
