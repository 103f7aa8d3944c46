"""A build of a projection in memory: the projector's own pure middle between reads and commits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import KeyValue, Projection, Put, PutAll, RowKey, Rows, TableSpec
from runyard_eventlog.folding import BatchFold, Folded
from runyard_eventlog.projection_store import Place, PlaceMovedError
from runyard_eventlog.row_cache import RowCache
from tests.replay.every_projection import Subject

RowT = TypeVar("RowT")
Kept = dict[RowKey, dict[int, object]]
"""Of each key, its rows by position."""


@dataclass
class Build:
    """What a database keeps of a projection; outlives whoever fills it."""

    subject: Subject
    rows: Kept = field(default_factory=dict)
    position: int = 0
    parked: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Position -> stream and reason."""

    def place(self) -> Place:
        """Read where it stands, as a projector does that starts."""
        streams = {stream for stream, reason in self.parked.values() if reason != "UNDECODABLE"}
        return Place(Position(self.position), frozenset(streams))

    def commit(self, place: Place, folded: Folded, position: int) -> None:
        """Keep a batch, if the build is still where the batch began."""
        if self.position != place.position:
            raise PlaceMovedError
        for spec in self.subject.projection.tables:
            for row in map(spec.row, folded.rows[spec.name]):
                own = self.rows.setdefault(RowKey(spec.name, spec.key_of(row)), {})
                assert row.position not in own, "a row is never written twice"
                own[row.position] = row
        for letter in folded.parked:
            self.parked[letter.event.position] = (letter.event.envelope.stream, letter.reason)
        self.position = position

    def newest(self, key: RowKey) -> object | None:
        """Give the current row of a key."""
        own = self.rows.get(key)
        return None if own is None else own[max(own)]

    def folded(self, events: Sequence[RecordedEvent], place: Place) -> Folded:
        """Fold a batch over the present rows; nothing is kept."""
        cache = RowCache(has_all_keys=False)
        fold = BatchFold(Strict(self.subject.projection), events, place.parked_streams, cache)
        while missing := fold.go_on():
            keys = [RowKey(table, values) for table, of_table in missing.items() for values in of_table]
            fold.supply(missing, {key: row for key in keys if (row := self.newest(key)) is not None})
        return fold.folded

    def content(self) -> tuple[Kept, dict[int, tuple[str, str]]]:
        """Give everything that must be the same however it came about."""
        return self.rows, self.parked


class Strict:
    """A projection that may only look at what it named, whatever else is at hand."""

    def __init__(self, projection: Projection[RecordedEvent]) -> None:
        self._projection = projection
        self.name, self.version = projection.name, projection.version
        self.tables, self.event_types = projection.tables, projection.event_types
        self._readable = {spec.name for spec in projection.tables if spec.is_read}

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        return self._projection.reads(event)

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any] | PutAll[Any]]:
        named = frozenset(self._projection.reads(event))
        assert {key.table for key in named} <= self._readable, "rows of such a table are never read"
        return self._projection.apply(event, _OnlyNamed(rows, named))


class _OnlyNamed:
    def __init__(self, rows: Rows, named: frozenset[RowKey]) -> None:
        self._rows, self._named = rows, named

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        if RowKey(table.name, key) not in self._named:
            raise KeyError(f"reads() did not name row {key} of {table.name}")
        return self._rows.get(table, *key)

    def lookup(self, table: TableSpec[RowT]) -> Callable[[tuple[KeyValue, ...]], RowT | None]:
        return lambda key: self.get(table, *key)


class Filler:
    """Fills a build as a projector's process does: it reads its place once, and remembers it."""

    def __init__(self, build: Build, history: Sequence[RecordedEvent]) -> None:
        """Go on from where the build is."""
        self._build = build
        types = build.subject.projection.event_types
        self._events = [event for event in history if event.type in types]
        self._positions = [event.position for event in self._events]
        self._head = history[-1].position if history else 0
        self._place = build.place()

    @property
    def is_done(self) -> bool:
        """True when there is nothing left to fold."""
        return self._build.position >= self._head

    def step(self, batch_max: int, *, dies: bool = False) -> None:
        """Fold the next batch, and keep it unless the process dies first.

        Raises:
            PlaceMovedError: another process has been here.
        """
        batch, scanned_to = self._page(self._place.position, batch_max)
        folded = self._build.folded(batch, self._place)
        if dies:
            return
        self._build.commit(self._place, folded, scanned_to)
        streams = self._place.parked_streams | folded.parked_streams
        self._place = Place(Position(scanned_to), streams)

    def redeliver(self, before: Place, batch_max: int) -> None:
        """Deliver a batch that was kept once more, as a reader does whose answer was lost."""
        batch, scanned_to = self._page(before.position, batch_max)
        self._build.commit(before, self._build.folded(batch, before), scanned_to)

    def _page(self, after: int, batch_max: int) -> tuple[list[RecordedEvent], int]:
        first = bisect_right(self._positions, after)
        batch = self._events[first : first + batch_max]
        return batch, batch[-1].position if first + batch_max < len(self._events) else self._head
