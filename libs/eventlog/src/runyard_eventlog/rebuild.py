"""A rebuild of a read model: fill tables beside the live ones, compare, swap names, tell the log.

Every step is kept, so that a rebuild that was killed goes on where it was. Live tables are served and moved
on all the time; the swap waits for queries in flight, and holds the projector up while it renames.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard.projection.v1.events_pb2 import ProjectionRebuilt
from runyard.projection.v1.types_pb2 import RebuildPhase
from runyard_contracts.envelope import Context, parse_actor
from runyard_contracts.ids import CommandId, deterministic_id, sha256_of, stream_name
from runyard_core.clock import Clock
from runyard_core.decider import Decider
from runyard_core.errors import Conflict, Unavailable
from runyard_core.projection import Projection
from runyard_core.retry import Backoff, Retries, retried
from runyard_eventlog.builds import Builds
from runyard_eventlog.comparison import Comparison, compare
from runyard_eventlog.disputes import disputed_since
from runyard_eventlog.failure_limit import FailureLimit
from runyard_eventlog.filling import fill
from runyard_eventlog.handler import execute
from runyard_eventlog.port import EventLog
from runyard_eventlog.projection_store import Place, ProjectionStore
from runyard_eventlog.readmodel import Build
from runyard_eventlog.rebuild_progress import ProgressMeter
from runyard_eventlog.rebuild_record import SWAPPED, RebuildRecord, RebuildRecords

SWAP_LOCK_MILLISECONDS = 400
"""How long the swap waits for queries in flight before it lets newer ones pass; below deadlock_timeout."""
_BACKOFF = Backoff(first_seconds=0.25, seconds_max=0.25, tries_max=40)
"""For a long query that holds a table: those behind it pass before the next try."""
_BLOCKED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """The read model that is rebuilt or verified."""

    service: str
    schema: str
    projection: Projection[Any]
    lane: Lane.ValueType


class Rebuilder:
    """Rebuilds and verifies one read model; one process at a time does."""

    def __init__(
        self, pool: asyncpg.Pool, log: EventLog, subject: Subject, meter: ProgressMeter, clock: Clock
    ) -> None:
        """Prepare; nothing is done before a call.

        Args:
            pool: at least five connections of the role that owns the schema, without a limit on commands.
            log: where events are read, and where the rebuild is told.
            subject: what to build.
            meter: takes what is to be shown of it.
            clock: time of the event.
        """
        self._pool = pool
        self._log = log
        self._subject = subject
        self._meter = meter
        self._clock = clock
        self._live = ProjectionStore(subject.projection, subject.schema)
        self._builds = Builds(subject.projection, subject.schema)
        self._records = RebuildRecords(subject.projection, subject.schema)
        self._limit = FailureLimit()

    async def rebuild(self) -> None:
        """Do the rebuild that was begun, from wherever it is, until it is told to the log or differs.

        Raises:
            NotFound: none was begun (NO_REBUILD).
            Conflict: another process does it (REBUILD_RUNNING).
            ProjectionStopped: too many events cannot be projected.
            Unavailable: database or log do not answer, or queries never leave room for the swap
                (SWAP_BLOCKED); trying again goes on from here.
        """
        async with self._alone():
            async with self._pool.acquire() as connection:
                record = await self._records.get(connection)
            if record.state != SWAPPED:
                comparison = await self._build()
                if not comparison.is_equal and not record.accepts_differences:
                    async with self._pool.acquire() as connection:
                        await self._records.differs(connection)
                    self._meter.phase(RebuildPhase.REBUILD_PHASE_DIFFERS)
                    return
                await self._swap(record, comparison)
            await self._tell()

    async def verify(self) -> None:
        """Fold the log to where the live read model is into scratch tables, and compare.

        Raises:
            Conflict: another process works on this read model (REBUILD_RUNNING), or a rebuild took its
                place meanwhile (LIVE_REPLACED).
            ProjectionStopped, Unavailable: as ``rebuild``.
        """
        scratch = ProjectionStore(self._subject.projection, self._subject.schema, Build.CHECK)
        async with self._alone():
            await self._drop_scratch()
            try:
                async with self._pool.acquire() as connection:
                    live = await self._live.place(connection)
                    await scratch.create(connection, disputes_position=live.disputes_position)
                position = await self._in_log(live.position)
                await self._fill(scratch, position)
                comparison = await self._compare(Build.CHECK, position)
                async with self._pool.acquire() as connection:
                    if (await self._live.place(connection)).epoch != live.epoch:
                        raise Conflict(
                            f"{self._subject.projection.name} was rebuilt meanwhile: verify again",
                            code="LIVE_REPLACED",
                        )
            finally:
                await self._drop_scratch()
        self._meter.phase(
            RebuildPhase.REBUILD_PHASE_DONE if comparison.is_equal else RebuildPhase.REBUILD_PHASE_DIFFERS
        )

    async def _build(self) -> Comparison:
        new = ProjectionStore(self._subject.projection, self._subject.schema, Build.NEW)
        async with self._pool.acquire() as connection:
            await new.create(connection)
            self._meter.resumed((await new.place(connection)).position)
        await self._fill(new, await self._live_position())
        self._meter.phase(RebuildPhase.REBUILD_PHASE_INDEXING)
        await new.index(self._pool)
        async with self._pool.acquire() as connection:
            await self._builds.copy_indexes(connection)
        # What came while indexes were made.
        position = await self._live_position()
        await self._fill(new, position)
        return await self._compare(Build.NEW, position)

    async def _fill(self, store: ProjectionStore, to_position: int) -> Place:
        async with self._pool.acquire() as connection:
            place = await store.place(connection)
            self._meter.parked(len(await store.parked_at(connection)))
        self._meter.filling(place.position, to_position)
        filled = fill(
            self._pool,
            self._log,
            store,
            self._subject.projection,
            lane=self._subject.lane,
            place=place,
            to_position=to_position,
            limit=self._limit,
        )
        async with aclosing(filled) as batches:
            async for batch in batches:
                place = batch.place
                self._meter.filled(place.position, len(batch.folded.parked))
        return place

    async def _compare(self, build: Build, position: int) -> Comparison:
        self._meter.phase(RebuildPhase.REBUILD_PHASE_COMPARING)
        projection, schema = self._subject.projection, self._subject.schema
        async with self._pool.acquire() as connection:
            comparison = await compare(connection, projection, schema, build, position)
            place = await ProjectionStore(projection, schema, build).place(connection)
        later = await disputed_since(self._log, place.disputes_position, projection.event_types)
        self._meter.compared(comparison, len(later))
        return comparison

    async def _swap(self, record: RebuildRecord, comparison: Comparison) -> None:
        self._meter.phase(RebuildPhase.REBUILD_PHASE_SWAPPING)
        name = self._subject.projection.name
        retries = Retries(f"swapping the tables of {name}", _BACKOFF, _log)
        try:
            await retried(lambda: self._try_swap(record, comparison), _BLOCKED, retries)
        except _BLOCKED as error:
            raise Unavailable(
                f"queries on {name} never left room for the swap; ask again", code="SWAP_BLOCKED"
            ) from error

    async def _try_swap(self, record: RebuildRecord, comparison: Comparison) -> None:
        new = ProjectionStore(self._subject.projection, self._subject.schema, Build.NEW)
        await self._fill(new, await self._live_position())
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(f"set local lock_timeout = {SWAP_LOCK_MILLISECONDS}")
            # From here on the projector waits, so the last events of the rebuild are these.
            place = await self._fill(new, await self._in_log(await self._live.lock(connection)))
            await new.lock(connection, place)
            await self._records.swapped(connection, self._event(record, comparison, place))
            await self._builds.swap(connection)

    def _event(self, record: RebuildRecord, comparison: Comparison, place: Place) -> ProjectionRebuilt:
        return ProjectionRebuilt(
            service=self._subject.service,
            projection=self._subject.projection.name,
            version=self._subject.projection.version,
            rebuild_id=record.rebuild_id,
            position=place.position,
            disputes_position=place.disputes_position,
            tables=comparison.tables,
            compared_position=comparison.position,
            differences_accepted=not comparison.is_equal,
        )

    async def _tell(self) -> None:
        """Append the event of a rebuild that has taken its place, and forget the rebuild."""
        async with self._pool.acquire() as connection:
            record = await self._records.get(connection)
        event = record.event or ProjectionRebuilt()

        def decide(_state: None, _command: RebuildRecord) -> list[ProjectionRebuilt]:
            return [event]

        executed = await execute(
            self._log,
            stream_name("projection", f"{self._subject.service}.{self._subject.projection.name}"),
            Decider(initial=None, decide=decide, evolve=lambda state, _event: state),
            record,
            Context(
                actor=parse_actor(record.actor),
                correlation_id=record.rebuild_id,
                source=f"/{self._subject.service}",
                causation_id="",
                traceparent=record.traceparent,
            ),
            command_id=CommandId(deterministic_id("rebuilt", record.rebuild_id)),
            now=self._clock.now(),
            request_digest=bytes.fromhex(sha256_of(event.SerializeToString(deterministic=True))),
        )
        async with self._pool.acquire() as connection:
            await self._records.end(connection)
        self._meter.told(event, executed.position)

    async def _live_position(self) -> int:
        async with self._pool.acquire() as connection:
            return await self._in_log((await self._live.place(connection)).position)

    async def _in_log(self, position: int) -> int:
        """Give a position, or the log's head when that is before it: tables not restored with it."""
        return min(position, (await self._log.head()).of(self._subject.lane))

    async def _drop_scratch(self) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            for kept in await self._builds.kept(connection):
                if kept.build is Build.CHECK:
                    await self._builds.drop(connection, kept)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold a lock that ends with this process, whatever becomes of it."""
        name = f"runyard rebuild {self._subject.schema}.{self._subject.projection.name}"
        async with self._pool.acquire() as connection:
            if not await connection.fetchval("select pg_try_advisory_lock(hashtextextended($1, 0))", name):
                raise Conflict(
                    f"a rebuild or verification of {self._subject.projection.name} is under way",
                    code="REBUILD_RUNNING",
                )
            try:
                yield
            finally:
                if not connection.is_closed():
                    await connection.execute("select pg_advisory_unlock(hashtextextended($1, 0))", name)
