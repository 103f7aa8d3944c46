"""The pure middle of the projector: what it asks for, and what it parks."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import Position, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Put, RowKey, Rows, TableSpec
from runyard_eventlog.folding import BatchFold
from runyard_eventlog.row_cache import RowCache


@dataclass(frozen=True, slots=True)
class CountRow:
    project: str
    position: int
    count: int


COUNTS = TableSpec("count", CountRow, ("project",))


class Counting:
    """Counts the runs of a project, twice each; notes what it was asked."""

    name = "counting"
    version = 1
    tables = (COUNTS,)
    event_types = frozenset({"runyard.run.queued"})

    def __init__(self, *, names: str = "digits") -> None:
        self._names = names
        self.asked = 0

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        self.asked += 1
        return [RowKey("count", (self._names,))]

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterator[Put[CountRow]]:
        if event.position == 3:
            raise ValueError("a mistake")
        before = rows.get(COUNTS, "digits")
        count = before.count if before else 0
        yield Put(COUNTS, CountRow("digits", event.position, count + 1))
        yield Put(COUNTS, CountRow("digits", event.position, count + 2))


def _events(count: int) -> Sequence[RecordedEvent]:
    context = Context(parse_actor("user:alice"), "c", "/test")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    names = [f"r{number}" for number in range(1, count + 1)]
    envelopes = [wrap(RunQueued(run_id=name), stream_name("run", name), context, now) for name in names]
    return [RecordedEvent(one, None, Position(at)) for at, one in enumerate(envelopes, start=1)]


def test_an_empty_build_asks_for_nothing_and_keeps_the_last_row_of_each_event() -> None:
    projection = Counting()
    fold = BatchFold(projection, _events(4), frozenset(), RowCache(has_all_keys=True))
    assert fold.go_on() == {}
    assert fold.folded.rows == {
        "count": [CountRow("digits", at, 2 * n) for n, at in [(1, 1), (2, 2), (3, 4)]]
    }
    assert [(letter.event.position, letter.reason) for letter in fold.folded.parked] == [(3, "APPLY_FAILED")]
    assert fold.folded.parked_streams == {"run-r3"}
    assert projection.asked == 0


def test_what_a_batch_looks_at_is_asked_for_once() -> None:
    projection = Counting()
    fold = BatchFold(projection, _events(2), frozenset(), RowCache(has_all_keys=False))
    assert fold.go_on() == {"count": {("digits",)}}
    fold.supply({"count": {("digits",)}}, {RowKey("count", ("digits",)): CountRow("digits", 0, 40)})
    assert fold.go_on() == {}
    assert fold.folded.rows["count"][-1] == CountRow("digits", 2, 44)
    assert projection.asked == 2


def test_an_event_that_looks_at_what_it_did_not_name_is_parked() -> None:
    fold = BatchFold(Counting(names="other"), _events(1), frozenset(), RowCache(has_all_keys=False))
    assert fold.go_on() == {"count": {("other",)}}
    fold.supply({"count": {("other",)}}, {})
    assert fold.go_on() == {}
    (parked,) = fold.folded.parked
    assert parked.reason == "APPLY_FAILED"
    assert "did not name" in parked.error


def test_what_a_service_froze_at_its_start_stays_frozen_after_a_large_batch() -> None:
    gc.freeze()
    try:
        frozen_count = gc.get_freeze_count()
        projection = Counting()
        assert not BatchFold(projection, _events(600), frozenset(), RowCache(has_all_keys=True)).go_on()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen_count // 2
    finally:
        gc.unfreeze()
