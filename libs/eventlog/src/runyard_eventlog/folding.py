"""The pure middle of the projector: from a batch of events and the rows it touches to new rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from runyard_contracts.envelope import UndecodableEventError
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError
from runyard_core.projection import Projection, Put, PutAll, RowKey, TableSpec, values_of
from runyard_eventlog.row_cache import Key, Keys, RowCache, RowMissingError

_UNDECODABLE = (UnknownEventTypeError, UndecodableEventError, NoUpcasterError)
_position_of: Callable[[object], int] = attrgetter("position")


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that could not be projected."""

    event: RecordedEvent
    reason: str
    """UNDECODABLE, APPLY_FAILED, or BEHIND_PARKED: an earlier event of its stream is parked."""
    error: str


@dataclass(slots=True)
class Folded:
    """What a batch makes."""

    rows: dict[str, list[Any]] = field(default_factory=dict)
    """Table name -> new rows, in the order of their events."""
    parked: list[Parked] = field(default_factory=list)

    @property
    def parked_streams(self) -> frozenset[str]:
        """Streams whose later events must wait."""
        return frozenset(
            letter.event.envelope.stream for letter in self.parked if letter.reason == "APPLY_FAILED"
        )

    def extend(self, later: Folded) -> None:
        """Add what the next batch makes."""
        for table, rows in later.rows.items():
            self.rows.setdefault(table, []).extend(rows)
        self.parked += later.parked


class BatchFold:
    """Folds one batch in order over the rows of a cache; stops whenever rows must be fetched into it.

    A projection is not asked what it will look at while everything is at hand, which is nearly always so in a
    rebuild. An event that raises leaves no row and parks its stream.
    """

    def __init__(
        self,
        projection: Projection[Any],
        events: Sequence[RecordedEvent],
        parked_streams: frozenset[str],
        cache: RowCache,
    ) -> None:
        """Prepare; nothing is folded before ``go_on``."""
        self.folded = Folded()
        self._projection = projection
        self._events = events
        self._stopped = set(parked_streams)
        self._cache = cache
        self._next = 0
        self._supplied_for = -1
        self._plans = {spec.name: self._plan(spec) for spec in projection.tables}

    def go_on(self) -> dict[str, set[Key]]:
        """Fold to the end, or to an event that looks at rows that must be fetched; gives their keys."""
        events, stopped, parked = self._events[self._next :], self._stopped, self.folded.parked
        apply, cache, keep = self._projection.apply, self._cache, self._keep
        for number, event in enumerate(events, self._next):
            if stopped and (stream := event.envelope.stream) in stopped:
                parked.append(Parked(event, "BEHIND_PARKED", f"an earlier event of {stream} is parked"))
                continue
            try:
                puts = apply(event, cache)
                if not isinstance(puts, list):
                    puts = list(puts)
            except RowMissingError:
                missing = self._missing_from(number)
                if missing:
                    return missing
                unnamed = KeyError("apply looked at a row that reads() did not name")
                parked.append(Parked(event, "APPLY_FAILED", repr(unnamed)))
                stopped.add(event.envelope.stream)
            except _UNDECODABLE as error:
                parked.append(Parked(event, "UNDECODABLE", repr(error)))
            except Exception as error:  # noqa: BLE001 - a projection's mistake must not stop the others' events
                parked.append(Parked(event, "APPLY_FAILED", repr(error)))
                stopped.add(event.envelope.stream)
            else:
                if puts:
                    keep(puts, event.position)
        self._next = len(self._events)
        return {}

    def supply(self, keys: Keys, fetched: Mapping[RowKey, object | None]) -> None:
        """Take the rows that ``go_on`` asked for."""
        self._cache.supply(keys, fetched)

    def _missing_from(self, number: int) -> dict[str, set[Key]]:
        """Ask what this event and all later ones look at, so that one fetch does for all of them."""
        if number == self._supplied_for:
            return {}
        self._next = self._supplied_for = number
        # Their messages are decoded here, so they are kept for the fold that goes on.
        self._events = list(self._events)
        wanted: list[RowKey] = []
        for event in self._events[number:]:
            try:
                wanted += self._projection.reads(event)
            except Exception:  # noqa: BLE001, S112 - it says the same to apply, which decides
                continue
        return self._cache.missing(wanted)

    def _keep(self, puts: Iterable[Put[Any] | PutAll[Any]], position: int) -> None:
        plans = self._plans
        for put in puts:
            rows, newest, key_of = plans[put[0].name]
            new = put[1] if type(put) is PutAll else put[1:]
            if newest is None:
                rows += new
                continue
            for row in new:
                key = key_of(row)
                former = newest.get(key)
                newest[key] = row
                if former is not None and _position_of(former) == position and _replaced(rows, former, row):
                    continue
                rows.append(row)

    def _plan(
        self, spec: TableSpec[Any]
    ) -> tuple[list[object], dict[Key, object | None] | None, Callable[[object], Key]]:
        """Look up once where the rows of a table go; those that are never read are not remembered."""
        rows = self.folded.rows.setdefault(spec.name, [])
        return rows, self._cache.of(spec.name) if spec.is_read else None, values_of(spec.key)


def _replaced(rows: list[object], former: object, row: object) -> bool:
    """Put the second row of one event for one key into the place of the first: only the last one counts."""
    for at in range(len(rows) - 1, -1, -1):
        if rows[at] is former:
            rows[at] = row
            return True
        if _position_of(rows[at]) != _position_of(former):
            break
    return False  # It was fetched: the batch was folded before.
