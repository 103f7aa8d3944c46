"""What people do with the read models of a service: look, rebuild, verify, drop, requeue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import asyncpg
import structlog
from opentelemetry import metrics

from runyard.event.v1.envelope_pb2 import Lane
from runyard.projection.v1 import types_pb2 as pb
from runyard.projection.v1.events_pb2 import ProjectionRebuilt
from runyard_contracts.ids import CommandId, Position, deterministic_id
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Conflict, InvalidInput, NotFound
from runyard_core.retry import Backoff, Retries, retried
from runyard_eventlog.builds import Builds, KeptBuild
from runyard_eventlog.connections import AWAY
from runyard_eventlog.dead_letters import REQUEUED_MAX, DeadLetter, DeadLetters, Requeued
from runyard_eventlog.port import EventLog
from runyard_eventlog.projector import Projector
from runyard_eventlog.querying import lent
from runyard_eventlog.readmodel import Build
from runyard_eventlog.rebuild import Subject
from runyard_eventlog.rebuild_record import BUILDING, DIFFERS, SWAPPED, RebuildRecord, RebuildRecords
from runyard_servicekit.auth import current_caller
from runyard_servicekit.projection_gauges import observe_projectors
from runyard_servicekit.projection_jobs import ProjectionJobs, RunningJob
from runyard_servicekit.settings import ServiceSettings
from runyard_servicekit.tracing import current_traceparent

_BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0)

log = structlog.get_logger("runyard.projections")


class ProjectionOperations:
    """Operations on the read models that a service's projectors fill."""

    def __init__(
        self,
        service: str,
        projectors: Sequence[Projector],
        pool: asyncpg.Pool,
        event_log: EventLog,
        settings: ServiceSettings,
    ) -> None:
        """Offer the projectors of one service; the pool is of the role that owns its schema."""
        self._service = service
        self._projectors = {projector.projection.name: projector for projector in projectors}
        self._pool = pool
        self._log = event_log
        self._jobs = ProjectionJobs(
            settings.database_url.get_secret_value(), settings.archive_url.get_secret_value()
        )

    async def run(self) -> None:
        """Export the lag and work until cancelled; rebuilds that a stop or a kill interrupted go on."""
        observe_projectors(metrics.get_meter("runyard"), self._service, list(self._projectors.values()))
        async with self._jobs.working():
            for projector in self._projectors.values():
                record = await self._unfinished(projector)
                if record is not None:
                    self._start(projector, record)
            await asyncio.Event().wait()

    def find(self, name: str) -> Projector:
        """Give the projector of a read model; the only one when no name is given.

        Raises:
            InvalidInput: no name, and there are several (PROJECTION_REQUIRED).
            NotFound: there is none of that name (PROJECTION_NOT_FOUND).
        """
        known = ", ".join(self._projectors)
        if not name and len(self._projectors) > 1:
            raise InvalidInput(f"name one of: {known}", code="PROJECTION_REQUIRED")
        found = self._projectors.get(name or next(iter(self._projectors)))
        if found is None:
            raise NotFound(
                f"{self._service} has no read model {name!r}; it has: {known}", code="PROJECTION_NOT_FOUND"
            )
        return found

    async def describe(self) -> list[pb.Projection]:
        """Give every read model with how far it is."""
        return [await self._describe(projector) for projector in self._projectors.values()]

    async def rebuild(
        self, name: str, rebuild_id: str, *, accepts_differences: bool, from_replaced: bool = False
    ) -> AsyncGenerator[pb.RebuildProgress, None]:
        """Begin or join a rebuild, and give its progress until it ends.

        Raises:
            NotFound, InvalidInput: as ``find``.
            Rejected: the tables that the last rebuild replaced are still there (OLD_BUILD_KEPT), or are
                wanted back and are not (NO_OLD_BUILD).
        """
        projector = self.find(name)
        told = await self._told(rebuild_id)
        if told is not None:
            yield told
            return
        wanted = RebuildRecord(
            rebuild_id=rebuild_id,
            version=projector.projection.version,
            actor=current_caller().name,
            traceparent=current_traceparent(),
            accepts_differences=accepts_differences,
            state=BUILDING,
            event=None,
        )
        async with lent(self._pool) as connection:
            record = await self._records(projector).begin(connection, wanted, from_replaced=from_replaced)
        async with aclosing(self._start(projector, record).watch()) as steps:
            async for progress in steps:
                yield progress

    def running_rebuild(self, name: str) -> RunningJob | None:
        """Give the rebuild of a read model that goes on in this process."""
        return self._jobs.running(name, "rebuild")

    async def verify(self, name: str) -> AsyncGenerator[pb.RebuildProgress, None]:
        """Verify a read model, or join a verification, and give its progress until it ends."""
        projector = self.find(name)
        begun = self._begun(projector, "")
        async with aclosing(self._jobs.start(self._subject(projector), "verify", begun).watch()) as steps:
            async for progress in steps:
                yield progress

    async def drop(self, name: str, kind: pb.BuildKind.ValueType) -> list[str]:
        """Drop what a rebuild or an older version left, or give up an unfinished rebuild; gives the tables.

        Raises:
            NotFound, InvalidInput: as ``find``; a kind that cannot be dropped (BAD_BUILD_KIND).
            Conflict: the rebuild goes on (REBUILD_RUNNING).
        """
        projector = self.find(name)
        if kind not in (pb.BUILD_KIND_OLD, pb.BUILD_KIND_NEW):
            raise InvalidInput("only old builds and unfinished rebuilds are dropped", code="BAD_BUILD_KIND")
        if kind == pb.BUILD_KIND_NEW and self._jobs.running(projector.projection.name, "rebuild"):
            raise Conflict(f"the rebuild of {projector.projection.name} goes on", code="REBUILD_RUNNING")
        builds = Builds(projector.projection, projector.schema)
        dropped: list[str] = []
        async with lent(self._pool) as connection, connection.transaction():
            for kept in await builds.kept(connection):
                if _kind(kept, projector.projection.version) == kind:
                    await builds.drop(connection, kept)
                    dropped += kept.tables
            if kind == pb.BUILD_KIND_NEW:
                records = self._records(projector)
                record = await records.find(connection)
                if record is not None and record.state != SWAPPED:
                    await records.end(connection)
        return dropped

    async def dead_letters(
        self, name: str, *, after: tuple[str, int], limit: int, stream: str
    ) -> list[tuple[str, DeadLetter]]:
        """Give parked events with the names of their read models, by name and position, behind a place.

        Raises:
            NotFound: there is no read model of that name (PROJECTION_NOT_FOUND).
            InvalidInput: nothing can be a stream of that name (BAD_STREAM_NAME).
        """
        _check_stream(stream)
        wanted = [self.find(name)] if name else list(self._projectors.values())
        found: list[tuple[str, DeadLetter]] = []
        for projector in sorted(wanted, key=lambda each: each.projection.name):
            own = projector.projection.name
            if own < after[0] or len(found) == limit:
                continue
            position = after[1] if own == after[0] else 0
            page = await self._letters(projector).page(
                after=position, limit=limit - len(found), stream=stream
            )
            found += [(own, letter) for letter in page]
        return found

    async def dead_letter(self, name: str, position: int) -> tuple[str, DeadLetter, RecordedEvent]:
        """Give one parked event; see ``DeadLetters.get``."""
        projector = self.find(name)
        if position < 1:
            raise NotFound(f"there is no position {position}", code="DEAD_LETTER_NOT_FOUND")
        letter, event = await self._letters(projector).get(position)
        return projector.projection.name, letter, event

    async def requeue(self, name: str, *, stream: str, limit: int) -> tuple[str, Requeued]:
        """Apply parked events again; see ``DeadLetters.requeue``.

        Raises:
            InvalidInput: a limit below 0 or over the maximum (BAD_LIMIT), or as ``dead_letters``.
        """
        _check_stream(stream)
        if not 0 <= limit <= REQUEUED_MAX:
            raise InvalidInput(f"limit is {limit}, want 1 to {REQUEUED_MAX}", code="BAD_LIMIT")
        projector = self.find(name)
        done = await self._letters(projector).requeue(stream=stream, limit=limit or REQUEUED_MAX)
        return projector.projection.name, done

    async def _unfinished(self, projector: Projector) -> RebuildRecord | None:
        """Give the rebuild that is to go on; a database that is away is waited for."""

        async def find() -> RebuildRecord | None:
            async with self._pool.acquire() as connection:
                return await self._records(projector).find(connection)

        record = await retried(find, AWAY, Retries("looking for rebuilds to go on with", _BACKOFF, log))
        return record if record is not None and record.state in (BUILDING, SWAPPED) else None

    def _start(self, projector: Projector, record: RebuildRecord) -> RunningJob:
        begun = self._begun(projector, record.rebuild_id)
        return self._jobs.start(self._subject(projector), "rebuild", begun)

    async def _told(self, rebuild_id: str) -> pb.RebuildProgress | None:
        """Give the end of a rebuild that is in the log already: the request was repeated."""
        known = await self._log.find_command(CommandId(deterministic_id("rebuilt", rebuild_id)))
        if known is None:
            return None
        page = await self._log.read(
            Lane.LANE_DOMAIN, after_position=Position(known.position - 1), to_position=known.position, limit=1
        )
        event = page.events[0].message
        if not isinstance(event, ProjectionRebuilt):
            return None
        return pb.RebuildProgress(
            rebuild_id=rebuild_id,
            service=event.service,
            projection=event.projection,
            version=event.version,
            phase=pb.REBUILD_PHASE_DONE,
            position=event.position,
            target_position=event.position,
            tables=event.tables,
            compared_position=event.compared_position,
            event_position=known.position,
        )

    async def _describe(self, projector: Projector) -> pb.Projection:
        projection, lag = projector.projection, projector.lag
        async with lent(self._pool) as connection:
            builds = await Builds(projection, projector.schema).kept(connection)
            record = await self._records(projector).find(connection)
        described = pb.Projection(
            service=self._service,
            name=projection.name,
            version=projection.version,
            tables=[spec.name for spec in projection.tables],
            position=projector.checkpoint,
            position_lag=lag.position_lag,
            time_lag_seconds=lag.time_lag_seconds,
            parked_count=lag.parked_count,
            oldest_parked_seconds=lag.oldest_parked_seconds,
            stopped=str(projector.stopped or ""),
        )
        for kept in builds:
            if kept.build is not Build.CHECK:
                described.builds.add(
                    kind=_kind(kept, projection.version),
                    version=kept.version,
                    position=kept.position,
                    tables=kept.tables,
                    size_bytes=kept.size_bytes,
                )
        job = self._jobs.running(projection.name, "rebuild")
        if job is not None:
            described.rebuild.CopyFrom(job.progress)
        elif record is not None:
            described.rebuild.CopyFrom(self._begun(projector, record.rebuild_id))
            described.rebuild.phase = (
                pb.REBUILD_PHASE_DIFFERS if record.state == DIFFERS else pb.REBUILD_PHASE_FAILED
            )
        return described

    def _begun(self, projector: Projector, rebuild_id: str) -> pb.RebuildProgress:
        return pb.RebuildProgress(
            rebuild_id=rebuild_id,
            service=self._service,
            projection=projector.projection.name,
            version=projector.projection.version,
            phase=pb.REBUILD_PHASE_FILLING,
        )

    def _subject(self, projector: Projector) -> Subject:
        return Subject(self._service, projector.schema, projector.projection, projector.lane)

    def _records(self, projector: Projector) -> RebuildRecords:
        return RebuildRecords(projector.projection, projector.schema)

    def _letters(self, projector: Projector) -> DeadLetters:
        return DeadLetters(
            self._pool, self._log, projector.projection, schema=projector.schema, lane=projector.lane
        )


def _check_stream(stream: str) -> None:
    if "\0" in stream:
        raise InvalidInput(
            f"{stream[:80]!r} is no stream",
            code="BAD_STREAM_NAME",
            field_violations={"stream": "a zero byte"},
        )


def _kind(kept: KeptBuild, version: int) -> pb.BuildKind.ValueType:
    if kept.build is Build.OLD or kept.version < version:
        return pb.BUILD_KIND_OLD
    return pb.BUILD_KIND_LIVE if kept.build is Build.LIVE else pb.BUILD_KIND_NEW
