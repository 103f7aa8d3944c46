"""Engines and events for the benchmarks of the log: durable Postgres, NATS that syncs, real messages."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, stream_name, uuid7
from runyard_engines import Postgres, PostgresSpec, choose_port, start_ready
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_testkit import Bus, Database
from runyard_testkit.engines import ROLES, create_database, migrate_database, new_nats, start_new

TITLE = "half of this title is the same in every event " + "x" * 60
"""Makes a stored event of about 400 bytes."""


@asynccontextmanager
async def fresh_database(folder: Path) -> AsyncIterator[Database]:
    """Start Postgres with its usual durability (fsync on), and migrate a database in it."""
    spec = PostgresSpec(
        data_dir=folder / "postgres",
        port=choose_port(),
        password=secrets.token_urlsafe(12),
        log_path=folder / "postgres.log",
    )
    server = Postgres(spec)
    await start_ready(server)
    try:
        passwords = {f"runyard_{role}": secrets.token_urlsafe(12) for role in ROLES}
        database = Database(spec, "bench", passwords)
        await create_database(spec, database.name)
        await migrate_database(database)
        yield database
    finally:
        await server.stop()


@asynccontextmanager
async def fresh_bus(folder: Path) -> AsyncIterator[Bus]:
    """Start NATS as an embedded yard does (sync_interval: always)."""
    server = await start_new(new_nats, folder)
    try:
        yield Bus(server)
    finally:
        await server.stop()


def commands(count: int, events_each: int = 1) -> Iterator[AppendCommand]:
    """Give commands on streams of their own."""
    context = Context(actor=parse_actor("user:bench"), correlation_id=uuid7(), source="/bench")
    for number in range(count):
        run_id = uuid7()
        stream = stream_name("run", run_id)
        now = datetime.now(UTC)
        events = [
            wrap(RunQueued(run_id=run_id, project="bench", number=number, title=TITLE), stream, context, now)
            for _ in range(events_each)
        ]
        yield AppendCommand(CommandId(uuid7()), [StreamAppend(stream, 0, events)])
