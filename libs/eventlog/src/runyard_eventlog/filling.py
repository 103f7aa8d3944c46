"""From pages of the log to rows and checkpoint in one transaction: for projector and rebuild alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import KeyValue, Projection, RowKey
from runyard_eventlog.connections import Connection
from runyard_eventlog.disputes import disputed_events, undisputed
from runyard_eventlog.failure_limit import FailureLimit
from runyard_eventlog.folding import Folded, decoded, fold, wanted_rows
from runyard_eventlog.port import EventFilter, EventLog, Page
from runyard_eventlog.projection_store import Place, ProjectionStore

FILL_BATCH_MAX = 4_000
"""Most events of one transaction of a rebuild."""
CACHED_ROWS_MAX = 50_000
"""Newest rows that a rebuild keeps, so that it reads few of its own rows back."""


class RowCache:
    """The newest rows of keys that were used last; a row that it has is never older than the table's.

    Holds what one writer put and read; it is wrong as soon as somebody else writes, so the projector, which
    may have a twin in another process, goes without.
    """

    def __init__(self, rows_max: int = CACHED_ROWS_MAX) -> None:
        self._rows_max = rows_max
        # Two halves: what was used since the last turn, and before it. A turn forgets the older half.
        self._recent: dict[RowKey, object | None] = {}
        self._before: dict[RowKey, object | None] = {}

    def take(
        self, wanted: Mapping[str, set[tuple[KeyValue, ...]]]
    ) -> tuple[dict[RowKey, object | None], dict[str, set[tuple[KeyValue, ...]]]]:
        """Give the rows that it has of those wanted, and the keys that it has not."""
        found: dict[RowKey, object | None] = {}
        missing: dict[str, set[tuple[KeyValue, ...]]] = {}
        for table, keys in wanted.items():
            for values in keys:
                key = RowKey(table, values)
                if key in self._recent:
                    found[key] = self._recent[key]
                elif key in self._before:
                    found[key] = self._recent[key] = self._before[key]
                else:
                    missing.setdefault(table, set()).add(values)
        return found, missing

    def keep(self, fetched: Mapping[RowKey, object | None], folded: Folded) -> None:
        """Keep what a batch read and put."""
        self._recent.update(fetched)
        for table, keys in folded.rows.items():
            for values, rows in keys.items():
                self._recent[RowKey(table, values)] = rows[max(rows)]
        if len(self._recent) > self._rows_max // 2:
            self._before, self._recent = self._recent, {}


@dataclass(frozen=True, slots=True)
class Filled:
    """What a transaction of a fill did."""

    place: Place
    event_count: int
    folded: Folded


async def disputed_at(log: EventLog, place: Place, lane: Lane.ValueType) -> frozenset[str]:
    """Give the ids of the events that a build at a place must leave out from here on.

    Raises:
        Unavailable: the log did not answer.
    """
    # A dispute comes after what it disputes, so a build past it meets none of them. Lanes count apart.
    if lane == Lane.LANE_DOMAIN and place.position >= place.disputes_position:
        return frozenset()
    return await disputed_events(log, place.disputes_position)


async def fold_events(
    connection: Connection,
    store: ProjectionStore,
    projection: Projection[Any],
    events: list[RecordedEvent],
    place: Place,
    cache: RowCache | None = None,
) -> Folded:
    """Read the rows that a batch wants to see, and fold it over them."""
    readable, undecodable = decoded(events, projection, place.parked_streams)
    wanted = wanted_rows(readable)
    if cache is None:
        return fold(readable, undecodable, projection, await store.fetch(connection, wanted))
    found, missing = cache.take(wanted)
    fetched = dict.fromkeys(
        (RowKey(table, values) for table, keys in missing.items() for values in keys), None
    ) | await store.fetch(connection, missing)
    folded = fold(readable, undecodable, projection, found | fetched)
    cache.keep(fetched, folded)
    return folded


async def fill(
    pool: asyncpg.Pool,
    log: EventLog,
    store: ProjectionStore,
    projection: Projection[Any],
    *,
    lane: Lane.ValueType,
    place: Place,
    to_position: int,
    batch_max: int = FILL_BATCH_MAX,
    cache: RowCache | None = None,
    limit: FailureLimit | None = None,
) -> AsyncGenerator[Filled, None]:
    """Bring a build from its place to a position; gives each committed batch.

    Args:
        pool: connections of the role that owns the tables.
        log: where events are read.
        store: the build.
        projection: the pure fold.
        lane: the lane that it projects.
        place: where the build stands.
        to_position: the last position that it shall show.
        batch_max: most events of a transaction.
        cache: rows to start with; one for all fills of a build.
        limit: what became of earlier events; one for all fills of a build.

    Raises:
        PlaceMovedError: another process fills it too.
        ProjectionStopped: too many events cannot be projected; the batch that shows it is not kept.
        Unavailable: the log did not answer.
    """
    cache = cache or RowCache()
    limit = limit or FailureLimit()
    disputed = await disputed_at(log, place, lane)
    types = sorted(projection.event_types)
    async with aclosing(_pages(log, lane, types, place.position, to_position, batch_max)) as pages:
        async for page in pages:
            events = undisputed(page.events, disputed) if disputed else page.events
            async with pool.acquire() as connection, connection.transaction():
                await store.lock(connection, place)
                folded = await fold_events(connection, store, projection, events, place, cache)
                limit.record_all(events, folded.parked)
                await store.write(connection, folded, page.scanned_to)
            parked_streams = place.parked_streams | folded.parked_streams
            place = Place(page.scanned_to, parked_streams, place.epoch, place.disputes_position)
            yield Filled(place, len(events), folded)


async def _pages(
    log: EventLog, lane: Lane.ValueType, types: list[str], after: int, to: int, batch_max: int
) -> AsyncGenerator[Page, None]:
    """Give the pages up to a position; while one is worked on, the next is read."""

    async def read(position: int) -> Page:
        return await log.read(
            lane,
            after_position=Position(position),
            to_position=Position(to),
            filter=EventFilter(types=types),
            limit=batch_max,
        )

    position = after
    ahead = asyncio.ensure_future(read(position)) if position < to else None
    try:
        while ahead is not None:
            page = await ahead
            position = page.scanned_to
            ahead = asyncio.ensure_future(read(position)) if position < to else None
            yield page
    finally:
        if ahead is not None:
            ahead.cancel()
