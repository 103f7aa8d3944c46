"""The pure middle of the projector: from a batch of events and the rows it touches to new rows."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from runyard_contracts.envelope import UndecodableEventError
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError
from runyard_core.projection import KeyValue, Projection, RowKey, TableSpec

RowT = TypeVar("RowT")

_LARGE_BATCH_EVENTS = 500


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that could not be projected."""

    event: RecordedEvent
    reason: str
    """UNDECODABLE, APPLY_FAILED, or BEHIND_PARKED: an earlier event of its stream is parked."""
    error: str


@dataclass(frozen=True, slots=True)
class Readable:
    """An event that could be decoded, and the rows that it wants to see."""

    event: RecordedEvent
    reads: tuple[RowKey, ...]


@dataclass(slots=True)
class Folded:
    """What a batch makes."""

    rows: dict[str, dict[tuple[KeyValue, ...], dict[int, object]]] = field(default_factory=dict)
    """Table name -> key -> position -> new row."""
    parked: list[Parked] = field(default_factory=list)

    @property
    def parked_streams(self) -> frozenset[str]:
        """Streams whose later events must wait."""
        return frozenset(
            letter.event.envelope.stream for letter in self.parked if letter.reason == "APPLY_FAILED"
        )


class BatchRows:
    """The ``Rows`` of a batch: what was fetched, overlaid by what earlier events of the batch put."""

    def __init__(self, fetched: Mapping[RowKey, object | None]) -> None:
        self._rows = dict(fetched)
        self._allowed: frozenset[RowKey] = frozenset()

    def allow(self, keys: Iterable[RowKey]) -> None:
        """Name the rows that the next event may see."""
        self._allowed = frozenset(keys)

    def put(self, key: RowKey, row: object) -> None:
        """Make a row the current one of its key."""
        self._rows[key] = row

    def get(self, table: TableSpec[RowT], *key: KeyValue) -> RowT | None:
        """See ``Rows.get``."""
        wanted = RowKey(table.name, key)
        if wanted not in self._allowed:
            raise KeyError(f"reads() did not name row {key} of {table.name}")
        return cast("RowT | None", self._rows.get(wanted))


def decoded(
    events: list[RecordedEvent], projection: Projection[Any], parked_streams: frozenset[str]
) -> tuple[list[Readable], list[Parked]]:
    """Decode a batch, and park what cannot be decoded or is behind something parked.

    Parked events come in no particular place: ``fold`` brings them into order.
    """
    readable: list[Readable] = []
    parked: list[Parked] = []
    stopped = set(parked_streams)
    with _collector_waiting(len(events)):
        for event in events:
            stream = event.envelope.stream
            if stream in stopped:
                parked.append(Parked(event, "BEHIND_PARKED", f"an earlier event of {stream} is parked"))
                continue
            try:
                event.message  # noqa: B018 - decodes
            except (UnknownEventTypeError, UndecodableEventError, NoUpcasterError) as error:
                parked.append(Parked(event, "UNDECODABLE", repr(error)))
                continue
            try:
                readable.append(Readable(event, tuple(projection.reads(event))))
            except Exception as error:  # noqa: BLE001 - a projection's mistake must not stop the others' events
                parked.append(Parked(event, "APPLY_FAILED", repr(error)))
                stopped.add(stream)
    return readable, parked


def wanted_rows(readable: list[Readable]) -> dict[str, set[tuple[KeyValue, ...]]]:
    """Give the keys that a batch wants to see, by table."""
    wanted: dict[str, set[tuple[KeyValue, ...]]] = {}
    for item in readable:
        for key in item.reads:
            wanted.setdefault(key.table, set()).add(key.values)
    return wanted


def fold(
    readable: list[Readable],
    parked: list[Parked],
    projection: Projection[Any],
    fetched: Mapping[RowKey, object | None],
) -> Folded:
    """Apply a batch in order. An event that raises leaves no row and parks its stream."""
    folded = Folded(parked=list(parked))
    rows = BatchRows(fetched)
    stopped: set[str] = set()
    with _collector_waiting(len(readable)):
        for item in readable:
            event, stream = item.event, item.event.envelope.stream
            if stream in stopped:
                reason = f"an earlier event of {stream} is parked"
                folded.parked.append(Parked(event, "BEHIND_PARKED", reason))
                continue
            rows.allow(item.reads)
            try:
                puts = list(projection.apply(event, rows))
            except Exception as error:  # noqa: BLE001 - a projection's mistake must not stop the others' events
                folded.parked.append(Parked(event, "APPLY_FAILED", repr(error)))
                stopped.add(stream)
                continue
            for put in puts:
                key = put.table.key_of(put.row)
                rows.put(RowKey(put.table.name, key), put.row)
                folded.rows.setdefault(put.table.name, {}).setdefault(key, {})[event.position] = put.row
    folded.parked.sort(key=lambda letter: letter.event.position)
    return folded


@contextmanager
def _collector_waiting(event_count: int) -> Iterator[None]:
    """Keep the garbage collector from a large batch: looking through it takes as long as folding it.

    A batch is hundreds of thousands of objects without cycles, all in use until it is written. They go to the
    old objects without being looked at. Small batches are left alone, as a service that lives on them for
    months needs its collector.
    """
    if event_count < _LARGE_BATCH_EVENTS or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()
        gc.enable()
