"""A log with small partitions in a real database, and its archive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import stream_name
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import ArchiveStore, FolderStore
from runyard_eventlog.archived_log import ArchivedEventLog
from runyard_eventlog.detaching import attached_before, detach_before
from runyard_eventlog.port import StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.postgres_stream_index import PostgresStreamIndex
from runyard_eventlog.sealing import Sealer
from runyard_eventlog.segment_seals import SealingSettings
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_log import PostgresStoredLog
from runyard_testkit import Database
from tests.contract.events import DOMAIN, TELEMETRY, chunk, command, fill, run_stream

PARTITION = 20
"""Positions of a partition here; the real ones hold millions."""
SEGMENT = 7


class ArchiveYard:
    """One log with small partitions, and its archive."""

    def __init__(self, database: Database, pool: asyncpg.Pool, admin: asyncpg.Pool, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.admin = admin
        self.store: ArchiveStore = FolderStore(folder / "archive")
        self.key = SigningKey.load_or_create(folder / "segment.key")
        self.stored = PostgresStoredLog(pool)
        self.hot = PostgresEventLog(pool)
        self.index = PostgresStreamIndex(pool)

    @property
    def archive(self) -> Archive:
        return Archive(self.store)

    @property
    def whole(self) -> ArchivedEventLog:
        return ArchivedEventLog(self.hot, self.stored, self.archive, self.index)

    def sealer(self, events_max: int = SEGMENT) -> Sealer:
        settings = SealingSettings(events_max=events_max)
        return Sealer(self.hot, self.stored, self.store, self.key, settings=settings)

    async def seal(self, lane: Lane.ValueType = DOMAIN) -> None:
        sealer = self.sealer()
        while await sealer.seal_next(lane) is not None:
            pass

    async def detach(self, lane: Lane.ValueType = DOMAIN) -> str:
        """Detach the oldest partition of a lane."""
        oldest = (await attached_before(self.admin, lane, 10**9))[0]
        (end,) = await self.stored.read(lane, oldest.last_position, oldest.last_position)
        before = 1 + (end.position if lane == DOMAIN else end.after_position)
        (detached,) = await detach_before(self.admin, self.archive, [self.key.public], lane, before)
        assert detached == oldest
        return detached.name


@asynccontextmanager
async def opened(database: Database, folder: Path) -> AsyncIterator[ArchiveYard]:
    """Give a yard over an empty database."""
    async with (
        asyncpg.create_pool(database.url("lineage"), min_size=1, max_size=6) as pool,
        asyncpg.create_pool(database.admin_url, min_size=1, max_size=2) as admin,
    ):
        await make_partitions_small(admin)
        made = ArchiveYard(database, pool, admin, folder)
        try:
            yield made
        finally:
            await made.hot.close()


async def make_partitions_small(admin: asyncpg.Pool) -> None:
    for row in await admin.fetch("delete from log.partition returning name"):
        await admin.execute(f"drop table log.{row['name']}")
    for parent, lane in (("domain_event", DOMAIN), ("telemetry_event", TELEMETRY)):
        for low in range(1, 12 * PARTITION, PARTITION):
            name = f"{parent}_{low:012d}"
            await admin.execute(
                f"create table log.{name} partition of log.{parent} "
                f"for values from ({low}) to ({low + PARTITION})"
            )
            await admin.execute(f"alter table log.{name} owner to runyard_log_owner")
            await admin.execute(
                "insert into log.partition (lane, from_position, to_position, name) values ($1, $2, $3, $4)",
                *(lane, low, low + PARTITION, name),
            )


async def fill_domain(yard: ArchiveYard, count: int) -> None:
    async with await PostgresEventLog.connect(yard.database.url("scheduler")) as log:
        streams = [run_stream() for _ in range(4)]
        await fill(log, count, streams)


async def fill_telemetry(yard: ArchiveYard, count: int) -> None:
    stream = stream_name("telemetry", "node-1.spool")
    async with await PostgresEventLog.connect(yard.database.url("metrics")) as log:
        begun = len(await log.read_stream(stream))
        for number in range(begun, begun + count):
            await log.append(command(StreamAppend(stream, number, [chunk(stream, f"line {number}")])))
