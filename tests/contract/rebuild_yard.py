"""A live read model of stories, rebuilds of it, and what they report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard.projection.v1.types_pb2 import RebuildPhase, RebuildProgress
from runyard.run.v1.events_pb2 import RunStatusDetailSet
from runyard_contracts.ids import uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import SystemClock
from runyard_core.projection import Projection, Put, RowKey, Rows
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.failure_limit import ProjectionStopped
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_eventlog.rebuild import Rebuilder, Subject
from runyard_eventlog.rebuild_progress import ProgressMeter
from runyard_eventlog.rebuild_record import BUILDING, RebuildRecord, RebuildRecords
from tests.contract.events import details, run_stream
from tests.contract.stories import POISON, Stories

DONE, DIFFERS = RebuildPhase.REBUILD_PHASE_DONE, RebuildPhase.REBUILD_PHASE_DIFFERS
SCHEMA = "scheduler"


class RingingLog(PostgresEventLog):
    """Rings a bell that projectors hear, so that nothing waits for the next look at the head."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.bell = Doorbell()
        super().__init__(pool, doorbell=self.bell)


@asynccontextmanager
async def live(
    pool: asyncpg.Pool, log: RingingLog, projection: Projection[Any] | None = None
) -> AsyncIterator[Projector]:
    projector = Projector(pool, log, projection or Stories(), schema=SCHEMA, doorbell=log.bell)
    task = asyncio.ensure_future(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def shown(projector: Projector, position: int) -> None:
    """Wait for a position of a projector that has stopped, and is about to notice that it may go on."""
    async with asyncio.timeout(10):
        while True:
            with suppress(ProjectionStopped):
                return await projector.wait_for(position, 10)
            await asyncio.sleep(0.02)


class Told:
    """What a rebuild reported."""

    def __init__(self) -> None:
        self.last = RebuildProgress()
        self._heard = asyncio.Event()

    def hear(self, progress: RebuildProgress) -> None:
        self.last = progress
        self._heard.set()

    async def reaches(self, phase: RebuildPhase.ValueType) -> None:
        while self.last.phase != phase:
            self._heard.clear()
            await self._heard.wait()


def rebuilder(
    pool: asyncpg.Pool, log: RingingLog, projection: Stories | None = None
) -> tuple[Rebuilder, Told]:
    told = Told()
    subject = Subject("scheduler", SCHEMA, projection or Stories(), Lane.LANE_DOMAIN)
    meter = ProgressMeter(RebuildProgress(), SystemClock(), told.hear)
    return Rebuilder(pool, log, subject, meter, SystemClock()), told


async def begin(pool: asyncpg.Pool, *, accepts: bool = False, from_replaced: bool = False) -> RebuildRecord:
    wanted = RebuildRecord(uuid7(), 1, "user:alice", "", accepts, BUILDING, None)
    async with pool.acquire() as connection:
        records = RebuildRecords(Stories(), SCHEMA)
        return await records.begin(connection, wanted, from_replaced=from_replaced)


async def rebuilt(
    pool: asyncpg.Pool,
    log: RingingLog,
    projection: Stories | None = None,
    *,
    accepts: bool = False,
    from_replaced: bool = False,
) -> RebuildProgress:
    await begin(pool, accepts=accepts, from_replaced=from_replaced)
    work, told = rebuilder(pool, log, projection)
    await work.rebuild()
    return told.last


async def tell(log: RingingLog, count: int) -> tuple[int, Sequence[str]]:
    streams = [run_stream() for _ in range(5)]
    for number in range(count // 10):
        words = [f"w{(number * 7 + each) % 23}" for each in range(10)]
        answer = await log.append(details(streams[number % 5], number // 5 * 10, *words))
    return answer.position, streams


class Mended(Stories):
    """The same projection, once somebody has mended its mistake."""

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        return Stories.reads(self, _healed(event))

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any]]:
        return Stories.apply(self, _healed(event), rows)


def _healed(event: RecordedEvent) -> RecordedEvent:
    message = event.message
    if isinstance(message, RunStatusDetailSet) and message.status_detail == POISON:
        message = RunStatusDetailSet(run_id=message.run_id, status_detail="medicine")
    return RecordedEvent(event.envelope, message)
