"""A build of a projection in memory: the projector's own pure middle between reads and commits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import KeyValue, RowKey
from runyard_eventlog.folding import Folded, decoded, fold, wanted_rows
from runyard_eventlog.projection_store import Place, PlaceMovedError
from tests.replay.every_projection import Subject

Rows = dict[RowKey, dict[int, object]]
"""Of each key, its rows by position."""


@dataclass
class Build:
    """What a database keeps of a projection; outlives whoever fills it."""

    subject: Subject
    rows: Rows = field(default_factory=dict)
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
        for table, keys in folded.rows.items():
            for values, by_position in keys.items():
                own = self.rows.setdefault(RowKey(table, values), {})
                assert not own.keys() & by_position.keys(), "a row is never written twice"
                own.update(by_position)
        for letter in folded.parked:
            self.parked[letter.event.position] = (letter.event.envelope.stream, letter.reason)
        self.position = position

    def newest(self, key: RowKey) -> object | None:
        """Give the current row of a key."""
        own = self.rows.get(key)
        return None if own is None else own[max(own)]

    def folded(self, events: Sequence[RecordedEvent], place: Place) -> Folded:
        """Fold a batch over the present rows; nothing is kept."""
        projection = self.subject.projection
        readable, undecodable = decoded(list(events), projection, place.parked_streams)
        wanted: dict[str, set[tuple[KeyValue, ...]]] = wanted_rows(readable)
        fetched = {
            key: self.newest(key)
            for key in (RowKey(table, values) for table, keys in wanted.items() for values in keys)
        }
        return fold(readable, undecodable, projection, fetched)

    def content(self) -> tuple[Rows, dict[int, tuple[str, str]]]:
        """Give everything that must be the same however it came about."""
        return self.rows, self.parked


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
