"""From pages of the log to rows and checkpoint in one transaction: for projector and rebuild alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Projection
from runyard_eventlog.connections import Connection
from runyard_eventlog.disputes import disputed_events, undisputed
from runyard_eventlog.failure_limit import FailureLimit
from runyard_eventlog.folding import BatchFold, Folded
from runyard_eventlog.port import EventFilter, EventLog, Page
from runyard_eventlog.projection_store import Place, ProjectionStore
from runyard_eventlog.row_cache import RowCache
from runyard_eventlog.storable import Storable

FILL_BATCH_MAX = 6_000
"""Most events of one transaction of a rebuild; a page that is full of large ones ends it."""
PAGE_EVENTS_MAX = 2_000
"""Events that are read together."""
TURN_EVENTS_MAX = 250
"""Events that are folded before the loop has its turn, some 3 ms: what is read and written must not wait."""


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
    events: Sequence[RecordedEvent],
    place: Place,
    cache: RowCache,
    *,
    to_position: int | None = None,
) -> Folded:
    """Fold a batch over the rows that it looks at: the newest ones, or those up to a position.

    Raises:
        asyncpg.CharacterNotInRepertoireError: a key has a NUL, and the projection is not ``Storable``.
    """
    fold = BatchFold(projection, events, place.parked_streams, cache)
    while missing := fold.go_on():
        fold.supply(missing, await store.fetch(connection, missing, to_position=to_position))
    return fold.folded


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

    While one batch is written, the next is folded and the page after it read. So a batch is folded over rows
    that may not be committed yet, which the cache has.

    Args:
        pool: at least four connections of the role that owns the tables.
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
    filling = _Filling(pool, log, store, lane, to_position, batch_max, limit or FailureLimit())
    while True:
        try:
            async with aclosing(filling.batches(projection, place)) as batches:
                async for batch in batches:
                    place = batch.place
                    yield batch
        except asyncpg.CharacterNotInRepertoireError:
            if isinstance(projection, Storable):
                raise
            # A text has a NUL. From here on all are looked at, as whoever says one NUL says more.
            projection = Storable(projection)
        else:
            return


@dataclass(frozen=True, slots=True)
class _Filling:
    """Where a fill reads and writes, and how far it goes; see ``fill``."""

    pool: asyncpg.Pool
    log: EventLog
    store: ProjectionStore
    lane: Lane.ValueType
    to_position: int
    batch_max: int
    limit: FailureLimit

    async def batches(self, projection: Projection[Any], place: Place) -> AsyncGenerator[Filled, None]:
        """Fill as ``fill`` does, up to a text with a NUL.

        Raises:
            asyncpg.CharacterNotInRepertoireError: there is one; all that was committed before was given.
        """
        cache = RowCache(projection.tables, has_all_keys=place.position == 0)
        disputed = await disputed_at(self.log, place, self.lane)
        page_max = min(self.batch_max, PAGE_EVENTS_MAX)
        batch = _Batch(place, self.limit)
        writing: asyncio.Task[Filled] | None = None
        try:
            async with aclosing(self._pages(projection, place.position, page_max)) as pages:
                async for page in pages:
                    events = undisputed(page.events, disputed) if disputed else page.events
                    for begin in range(0, len(events), TURN_EVENTS_MAX):
                        some = events[begin : begin + TURN_EVENTS_MAX]
                        batch.add(some, await self._fold(projection, some, batch.after, cache, writing))
                        # A thread for the fold would share the interpreter, and take more of it.
                        await asyncio.sleep(0)
                    batch.reached(page.scanned_to)
                    # While the last page is written nothing is folded, so no other page waits to go with it.
                    is_near_end = self.to_position - page.scanned_to <= 2 * page_max
                    is_large = page.is_full and len(page.events) < page_max
                    has_room = batch.event_count + page_max <= self.batch_max
                    if has_room and not is_large and not is_near_end:
                        continue
                    if writing is not None:
                        yield await writing
                    writing = asyncio.create_task(self._write(batch))
                    batch = _Batch(batch.after, batch.limit)
                    cache.turn()
            if writing is not None:
                yield await writing
        except asyncpg.CharacterNotInRepertoireError:
            # Refused was what is being written, or a key that what comes after it looks at.
            if writing is not None:
                yield await writing
            raise
        finally:
            if writing is not None and not writing.done():
                writing.cancel()
                await asyncio.wait((writing,))

    async def _fold(
        self,
        projection: Projection[Any],
        events: Sequence[RecordedEvent],
        place: Place,
        cache: RowCache,
        writing: asyncio.Task[Filled] | None,
    ) -> Folded:
        """Fold over rows that may not be written yet; a build gets indexes when rows must be read back."""
        fold = BatchFold(projection, events, place.parked_streams, cache)
        while missing := fold.go_on():
            if not self.store.is_indexed:
                if writing is not None:
                    # It would wait for the indexes, perhaps longer than the role waits for a lock.
                    await asyncio.wait((writing,))
                await self.store.index(self.pool)
            async with self.pool.acquire() as connection:
                fold.supply(missing, await self.store.fetch(connection, missing))
        return fold.folded

    async def _write(self, batch: _Batch) -> Filled:
        async with self.store.batch(self.pool, batch.before) as connection:
            await self.store.write(connection, batch.folded, batch.after.position)
        self.limit.become(batch.limit)
        return Filled(batch.after, batch.event_count, batch.folded)

    async def _pages(
        self, projection: Projection[Any], after: Position, page_max: int
    ) -> AsyncGenerator[Page, None]:
        """Give the pages after a position; while one is worked on, the next is read."""
        of_projection = EventFilter(types=sorted(projection.event_types))

        async def read(position: Position) -> Page:
            return await self.log.read(
                self.lane,
                after_position=position,
                to_position=Position(self.to_position),
                filter=of_projection,
                limit=page_max,
            )

        position = after
        ahead = asyncio.ensure_future(read(position)) if position < self.to_position else None
        try:
            while ahead is not None:
                page = await ahead
                position = page.scanned_to
                ahead = asyncio.ensure_future(read(position)) if position < self.to_position else None
                yield page
        finally:
            if ahead is not None:
                ahead.cancel()


class _Batch:
    """What some pages make, until one transaction writes it."""

    def __init__(self, before: Place, limit: FailureLimit) -> None:
        self.before = self.after = before
        self.limit = limit.copy()
        self.folded = Folded()
        self.event_count = 0

    def add(self, events: Sequence[RecordedEvent], folded: Folded) -> None:
        self.limit.record_all(events, folded.parked)
        self.folded.extend(folded)
        self.event_count += len(events)
        if folded.parked:
            streams = self.after.parked_streams | folded.parked_streams
            self.after = replace(self.after, parked_streams=streams)

    def reached(self, position: Position) -> None:
        self.after = replace(self.after, position=position)
