"""Drives a pure projection over the log into its tables, and keeps its place in the same transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import DeadlineExceeded, Unavailable
from runyard_core.projection import Projection
from runyard_core.retry import Backoff, Retries
from runyard_eventlog import projection_store as store
from runyard_eventlog.connections import AWAY
from runyard_eventlog.disputes import undisputed
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.failure_limit import FailureLimit, ProjectionStopped
from runyard_eventlog.filling import disputed_at, fold_events
from runyard_eventlog.folding import Folded
from runyard_eventlog.port import EventFilter, EventLog, Page
from runyard_eventlog.row_cache import RowCache
from runyard_eventlog.storable import Storable
from runyard_eventlog.subscriber import follow

BATCH_MAX = 1_000
"""Most events that one transaction holds."""
PARKED_MAX = 10_000
"""Most events that may wait for a person; one more stops the projector."""
ROWS_KEPT_MAX = 4_000
"""Rows that a projector keeps from batch to batch, so that it reads fewer of its own rows back."""
_KEY_BITS = 20
_LOOK_SECONDS = 1.0
_IDLE_CHECKPOINT_SECONDS = 5.0
_BACKOFF = Backoff(first_seconds=0.1, seconds_max=2.0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a projection is behind the log."""

    position_lag: int
    """Events of the lane that it has not looked at, as of its last look."""
    time_lag_seconds: float
    """From recording to visible, of the last event that it applied."""
    parked_count: int
    """Events that wait for a person."""
    oldest_parked_seconds: float
    """Age of the oldest of them; 0 when there is none."""


class Projector:
    """Runs one projection. Several processes may run the same one: each batch is applied by one of them."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        log: EventLog,
        projection: Projection[Any],
        *,
        schema: str,
        lane: Lane.ValueType = Lane.LANE_DOMAIN,
        doorbell: Doorbell | None = None,
        batch_max: int = BATCH_MAX,
    ) -> None:
        """Prepare; nothing is read before ``run``.

        Args:
            pool: connections of the role that owns the schema.
            log: where events are read.
            projection: the pure fold.
            schema: where its tables, its checkpoint and its parked events are.
            lane: the lane that it projects.
            doorbell: rings when the log may have grown.
            batch_max: most events of one transaction.
        """
        self._pool = pool
        self._log = log
        self._projection = projection
        self._schema = schema
        self._lane = lane
        self._doorbell = doorbell
        self._batch_max = batch_max
        self._store = store.ProjectionStore(projection, schema)
        self._place = store.Place(Position(0), frozenset())
        self._applied = Position(0)
        self._moved = asyncio.Condition()
        self._stopped: BaseException | None = None
        self._stopped_at = datetime.now(UTC)
        self._limit = FailureLimit()
        self._disputed: frozenset[str] = frozenset()
        self._begin_with(projection)
        self._is_shown = False
        self._time_lag_seconds = 0.0
        self._position_lag = 0
        self._parked_at: list[datetime] = []
        self._persisted_at = 0.0

    @property
    def projection(self) -> Projection[Any]:
        """What it runs."""
        return self._projection

    @property
    def schema(self) -> str:
        """Where its tables are."""
        return self._schema

    @property
    def lane(self) -> Lane.ValueType:
        """The lane that it projects."""
        return self._lane

    @property
    def stopped(self) -> BaseException | None:
        """Why it has stopped; None while it goes on."""
        return self._stopped

    @property
    def checkpoint(self) -> Position:
        """Every event up to here is in the tables."""
        return self._applied

    @property
    def lag(self) -> Lag:
        """How far it is behind."""
        now = datetime.now(UTC)
        oldest = (now - min(self._parked_at)).total_seconds() if self._parked_at else 0.0
        stopped_for = (now - self._stopped_at).total_seconds() if self._stopped is not None else 0.0
        return Lag(self._position_lag, self._time_lag_seconds + stopped_for, len(self._parked_at), oldest)

    async def wait_for(self, position: int, timeout_seconds: float) -> None:
        """Wait until the tables show a position.

        Raises:
            DeadlineExceeded: they do not in time.
            ProjectionStopped: they never will.
        """
        if self._applied >= position:
            return
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(lambda: self._applied >= position or self._stopped is not None)
        except TimeoutError:
            raise DeadlineExceeded(
                f"read model {self._projection.name} is at position {self._applied}, not yet at {position}",
                code="READ_MODEL_BEHIND",
                metadata={"position": str(self._applied), "min_position": str(position)},
            ) from None
        if self._applied < position:
            raise ProjectionStopped(f"read model {self._projection.name} has stopped: {self._stopped}")

    async def caught_up(self) -> None:
        """Wait until the tables have shown the log's head once since the start.

        A service answers queries only from then on: a restart or a rebuild must not look like a loss.
        """
        async with self._moved:
            await self._moved.wait_for(lambda: self._is_shown or self._stopped is not None)

    async def run(self) -> None:
        """Project for ever; a lost database is waited for.

        When over 1 % of the events, or 20 in a row, cannot be projected, it stops and says so: whoever waits
        for a position gets ``ProjectionStopped``, and what is there is still shown. Nothing of the batch that
        showed it is kept. It tries again when events were requeued, a rebuild took its place, or the process
        is started anew.
        """
        retries = Retries(f"projection {self._projection.name}", _BACKOFF, _log)
        while True:
            try:
                await self._open()
                if self._is_shown:
                    retries.succeeded()
                await self._follow(retries)
            except (*AWAY, Unavailable) as error:
                await retries.pause(error)
            except store.PlaceMovedError:
                _log.info("projection %s: another process moved it on", self._projection.name)
            except ProjectionStopped as error:
                _log.critical("projection %s stopped: %s", self._projection.name, error)
                await self._announce(stopped=error)
                await self._until_mended()
                self._limit = FailureLimit()

    async def _until_mended(self) -> None:
        """Wait until somebody else has changed what the projector goes on from."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                self._position_lag = (await self._log.head()).of(self._lane) - self._applied
                async with self._pool.acquire() as connection:
                    if (await self._store.place(connection)).epoch != self._place.epoch:
                        return
            except (*AWAY, Unavailable) as error:
                _log.warning("projection %s: database away: %r", self._projection.name, error)

    async def _open(self) -> None:
        head = (await self._log.head()).of(self._lane)
        stored = self._place.position
        async with self._pool.acquire() as connection:
            await self._store.create(connection)
            self._place = await self._store.place(connection)
            self._parked_at = await self._store.parked_at(connection)
            if self._place.position > head:
                # Read again: another process of this projection may have moved it on since.
                await self._require_log_to(self._place.position)
            self._is_shown = self._place.position >= head
            if self._is_shown:
                await self._store.show(connection)
        # Another process may have changed rows: nothing of before counts.
        self._begin_with(self._projection)
        self._disputed = await disputed_at(self._log, self._place, self._lane)
        # Looked-at positions without wanted events are not stored each time, and stay looked at. A crash of
        # the database may take the last batches: their commits do not wait for the disk.
        has_lost = self._place.position < stored
        self._applied = self._place.position if has_lost else max(self._applied, self._place.position)
        await self._announce()

    def _begin_with(self, folds: Projection[Any]) -> None:
        """Fold from here on with the projection, or what stands for it, over the rows in the tables."""
        is_empty = self._place.position == 0
        self._folds = folds
        self._cache = RowCache(
            folds.tables, has_all_keys=is_empty, rows_max=ROWS_KEPT_MAX, key_bits=_KEY_BITS
        )

    async def _require_log_to(self, position: Position) -> None:
        head = (await self._log.head()).of(self._lane)
        if position > head:
            raise ProjectionStopped(
                f"its tables are at position {position}, the log ends at {head}: they were not restored "
                "together with it. Build them anew, see docs/how-to/restore-the-log.md"
            )

    async def _follow(self, retries: Retries) -> None:
        async for page in follow(
            self._log,
            self._lane,
            after_position=self._place.position,
            filter=EventFilter(types=sorted(self._projection.event_types)),
            doorbell=self._doorbell,
            page_size=self._batch_max,
        ):
            await self._apply(page)
            retries.succeeded()
            head = (await self._log.head()).of(self._lane) if page.is_full else page.scanned_to
            self._position_lag = head - page.scanned_to

    async def _apply(self, page: Page) -> None:
        has_caught_up = not page.is_full and not self._is_shown
        now = asyncio.get_running_loop().time()
        if page.events or has_caught_up or now - self._persisted_at >= _IDLE_CHECKPOINT_SECONDS:
            events = undisputed(page.events, self._disputed) if self._disputed else page.events
            try:
                folded = await self._keep(events, page.scanned_to, is_shown=has_caught_up)
            except asyncpg.CharacterNotInRepertoireError:
                if isinstance(self._folds, Storable):
                    raise
                # A text has a NUL. From here on all are looked at, as whoever says one NUL says more.
                self._begin_with(Storable(self._projection))
                folded = await self._keep(events, page.scanned_to, is_shown=has_caught_up)
            self._cache.turn()
            self._is_shown = self._is_shown or has_caught_up
            self._persisted_at = now
            self._place = replace(
                self._place,
                position=page.scanned_to,
                parked_streams=self._place.parked_streams | folded.parked_streams,
            )
            self._count(events, folded)
        self._applied = page.scanned_to
        await self._announce()

    async def _keep(self, events: Sequence[RecordedEvent], scanned_to: Position, *, is_shown: bool) -> Folded:
        """Fold a batch and keep what it makes, or nothing of it."""
        async with self._store.batch(self._pool, self._place) as connection:
            folded = await fold_events(connection, self._store, self._folds, events, self._place, self._cache)
            limit = self._judged(events, folded)
            await self._store.write(connection, folded, scanned_to)
            if is_shown:
                # From here on this version is the one to look at.
                await self._store.show(connection)
        self._limit = limit
        return folded

    def _judged(self, events: Sequence[RecordedEvent], folded: Folded) -> FailureLimit:
        """Count a batch; stop before anything is kept of one that shows that code or log are wrong."""
        limit = self._limit.copy()
        limit.record_all(events, folded.parked)
        if len(self._parked_at) + len(folded.parked) > PARKED_MAX:
            raise ProjectionStopped(f"over {PARKED_MAX} events are parked")
        return limit

    def _count(self, events: Sequence[RecordedEvent], folded: Folded) -> None:
        if events:
            recorded_at = events[-1].envelope.recorded_at
            now = datetime.now(UTC).timestamp()
            self._time_lag_seconds = max(0.0, now - recorded_at.seconds - recorded_at.nanos / 1e9)
        for letter in folded.parked:
            _log.error(
                "projection %s parked event %s at position %s: %s",
                self._projection.name,
                letter.event.envelope.event_id,
                letter.event.position,
                letter.error,
            )
            self._parked_at.append(datetime.now(UTC))

    async def _announce(self, stopped: BaseException | None = None) -> None:
        async with self._moved:
            if self._stopped is None:
                self._stopped_at = datetime.now(UTC)
            self._stopped = stopped
            self._moved.notify_all()
