"""From pages of the log to rows and checkpoint in one transaction: for projector and rebuild alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Projection, RowKey
from runyard_eventlog.connections import Connection
from runyard_eventlog.disputes import disputed_events, undisputed
from runyard_eventlog.failure_limit import FailureLimit
from runyard_eventlog.folding import Folded, decoded, fold, wanted_rows
from runyard_eventlog.port import EventFilter, EventLog, Page
from runyard_eventlog.projection_store import Place, ProjectionStore
from runyard_eventlog.row_cache import RowCache

FILL_BATCH_MAX = 4_000
"""Most events of one transaction of a rebuild."""


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
) -> Folded:
    """Read the rows that a batch wants to see, and fold it over them."""
    readable, undecodable = decoded(events, projection, place.parked_streams)
    rows = await store.fetch(connection, wanted_rows(readable))
    return fold(readable, undecodable, projection, rows)


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
    limit: FailureLimit | None = None,
) -> AsyncGenerator[Filled, None]:
    """Bring a build from its place to a position; gives each committed batch.

    While one batch is written, the next is folded and the one after it read. So a batch is folded over rows
    that may not be committed yet, which the cache has.

    Args:
        pool: at least three connections of the role that owns the tables.
        log: where events are read.
        store: the build.
        projection: the pure fold.
        lane: the lane that it projects.
        place: where the build stands.
        to_position: the last position that it shall show.
        batch_max: most events of a transaction.
        limit: what became of earlier events; one for all fills of a build.

    Raises:
        PlaceMovedError: another process fills it too.
        ProjectionStopped: too many events cannot be projected; the batch that shows it is not kept.
        Unavailable: the log did not answer.
    """
    cache = RowCache(has_all_keys=place.position == 0)
    limit = limit or FailureLimit()
    disputed = await disputed_at(log, place, lane)
    types = sorted(projection.event_types)
    writing: asyncio.Task[Filled] | None = None
    try:
        async with aclosing(_pages(log, lane, types, place.position, to_position, batch_max)) as pages:
            async for page in pages:
                events = undisputed(page.events, disputed) if disputed else page.events
                folded = await _fold_cached(pool, store, projection, events, place, cache)
                limit.record_all(events, folded.parked)
                if writing is not None:
                    yield await writing
                writing = asyncio.create_task(
                    _write(pool, store, place, folded, page.scanned_to, len(events))
                )
                place = _after(place, folded, page.scanned_to)
        if writing is not None:
            yield await writing
    finally:
        if writing is not None and not writing.done():
            writing.cancel()
            await asyncio.wait((writing,))


async def _fold_cached(
    pool: asyncpg.Pool,
    store: ProjectionStore,
    projection: Projection[Any],
    events: list[RecordedEvent],
    place: Place,
    cache: RowCache,
) -> Folded:
    # In a thread, so that the loop can go on with what is being written and read meanwhile.
    readable, undecodable = await asyncio.to_thread(decoded, events, projection, place.parked_streams)
    found, missing = cache.take(wanted_rows(readable))
    fetched: dict[RowKey, object | None] = {}
    if missing:
        async with pool.acquire() as connection:
            fetched = await store.fetch(connection, missing)
    folded = await asyncio.to_thread(fold, readable, undecodable, projection, found | fetched)
    cache.keep(missing, fetched, folded)
    return folded


async def _write(
    pool: asyncpg.Pool,
    store: ProjectionStore,
    place: Place,
    folded: Folded,
    position: Position,
    event_count: int,
) -> Filled:
    async with pool.acquire() as connection, connection.transaction():
        await store.lock(connection, place)
        await store.write(connection, folded, position)
    return Filled(_after(place, folded, position), event_count, folded)


def _after(place: Place, folded: Folded, position: Position) -> Place:
    return replace(place, position=position, parked_streams=place.parked_streams | folded.parked_streams)


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
