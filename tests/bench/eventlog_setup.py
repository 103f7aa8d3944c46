"""Engines and events for the benchmarks of the log: durable Postgres, NATS that syncs, real messages."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, RunId, stream_name, uuid7
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
    context = _context()
    for _ in range(count):
        run_id = RunId(uuid7())
        yield _command(run_id, 0, events_each, context)


def growing(run_id: RunId, version: int, count: int) -> Iterator[AppendCommand]:
    """Give commands of one event each on a stream that has a version."""
    context = _context()
    for number in range(count):
        yield _command(run_id, version + number, 1, context)


def _context() -> Context:
    return Context(actor=parse_actor("user:bench"), correlation_id=uuid7(), source="/bench")


def _command(run_id: RunId, version: int, event_count: int, context: Context) -> AppendCommand:
    stream = stream_name("run", run_id)
    now = datetime.now(UTC)
    events = [
        wrap(RunQueued(run_id=run_id, project="bench", number=number, title=TITLE), stream, context, now)
        for number in range(version + 1, version + 1 + event_count)
    ]
    return AppendCommand(CommandId(uuid7()), [StreamAppend(stream, version, events)])
