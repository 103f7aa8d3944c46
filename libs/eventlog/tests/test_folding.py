"""The pure middle of the projector, and the garbage collector that waits for it."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pytest

from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import Position, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Put, RowKey, Rows, TableSpec
from runyard_eventlog.folding import decoded, fold

LARGE = 600


class Watching:
    """Puts nothing, and notes whether the collector was on."""

    name = "watching"
    version = 1
    tables: tuple[TableSpec[object], ...] = ()
    event_types = frozenset({"runyard.run.queued"})

    def __init__(self) -> None:
        self.collector_was_on: set[bool] = set()

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        self.collector_was_on.add(gc.isenabled())
        if event.position == 1:
            raise ValueError("a mistake")
        return ()

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterator[Put[object]]:
        self.collector_was_on.add(gc.isenabled())
        yield from ()


def _events(count: int) -> list[RecordedEvent]:
    context = Context(parse_actor("user:alice"), "c", "/test")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    names = [f"r{number}" for number in range(1, count + 1)]
    envelopes = [wrap(RunQueued(run_id=name), stream_name("run", name), context, now) for name in names]
    return [RecordedEvent(one, None, Position(at)) for at, one in enumerate(envelopes, start=1)]


@pytest.mark.parametrize(("event_count", "is_on"), [(LARGE, False), (10, True)])
def test_the_collector_waits_for_a_large_batch_only(event_count: int, is_on: bool) -> None:
    projection = Watching()
    readable, parked = decoded(_events(event_count), projection, frozenset())
    assert gc.isenabled()
    folded = fold(readable, parked, projection, {})
    assert gc.isenabled()
    assert projection.collector_was_on == {is_on}
    assert [letter.event.position for letter in folded.parked] == [1]


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        decoded(_events(LARGE), Watching(), frozenset())
        assert not gc.isenabled()
    finally:
        gc.enable()
