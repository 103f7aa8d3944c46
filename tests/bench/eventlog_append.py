"""Benchmarks of append: many producers and one, beside raw inserts; many producers beside a long replay."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import asyncpg

from runyard_contracts.ids import RunId, uuid7
from runyard_eventlog.admission import admit
from runyard_eventlog.append_call import append_arguments
from runyard_eventlog.port import AppendCommand
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from tests.bench.eventlog_setup import commands, growing
from tests.bench.processes import cpu_seconds, tree_of
from tests.bench.result import Result, measured

ROUNDS = 5
PRODUCERS = 64
COMMANDS_EACH = 60
ALONE = 300
"""Commands of a round of a single producer."""
BESIDE_EVENTS = int(os.environ.get("RUNYARD_BENCH_BESIDE_EVENTS", "200000"))
"""Size of the log that is replayed while others append; 5000000 for the whole dose, which takes minutes."""


@dataclass(frozen=True, slots=True)
class _Round:
    rate: float
    """Commands a second, all producers together."""
    p50: float
    """Milliseconds to the answer."""
    p99: float


async def append(database: Database) -> list[Result]:
    """Producers that wait for each answer, beside as many rows inserted at once without any check."""
    rounds, raws, alone, raws_alone, busy = [], [], [], [], []
    engine = int((database.server.data_dir / "postmaster.pid").read_text().split()[0])
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:
        await _create_raw_tables(database)
        for number in range(ROUNDS + 1):
            work = [list(commands(COMMANDS_EACH)) for _ in range(PRODUCERS)]
            before = _processor_seconds(engine)
            many = await _round(log, work)
            spent = (_processor_seconds(engine) - before) / (PRODUCERS * COMMANDS_EACH)
            raw = await _raw_round(database, COMMANDS_EACH, PRODUCERS)
            one = await _round(log, [list(commands(ALONE))])
            raw_one = await _raw_round(database, ALONE, 1)
            if number > 0:  # the first one warms connections and plans
                rounds.append(many)
                busy.append(spent * 1_000_000)
                raws.append(raw)
                alone.append(one.p50)
                raws_alone.append(1_000 / raw_one)
    rates = [one.rate for one in rounds]
    return [
        measured(
            f"log: append, {PRODUCERS} producers",
            rates,
            "commands/s",
            "higher",
            target=10_000,
            baseline=("raw batched insert", raws),
        ),
        # Also tells on a busy machine, where the rate says more of the others.
        measured("log: append, processor time of both sides", busy, "us a command", "lower"),
        measured("log: append p99", [one.p99 for one in rounds], "ms", "lower", target=20),
        measured(
            "log: append over raw insert",
            [mine / other for mine, other in zip(rates, raws, strict=True)],
            "x",
            "higher",
            target=0.6,
        ),
        measured(
            "log: append p50, one producer", alone, "ms", "lower", baseline=("raw single insert", raws_alone)
        ),
    ]


async def append_beside_replay(database: Database) -> list[Result]:
    """Append to streams that grow: alone, while a paused replay holds a snapshot, and while it runs."""
    alone, held, beside = [], [], []
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:
        for command in commands((BESIDE_EVENTS - (await log.head()).domain_position) // 1_000 + 1, 1_000):
            await log.append(command)
    async with growing_appends(database) as grow:
        await grow()  # warm
        alone += [await grow() for _ in range(ROUNDS)]
        async with _replay(database) as replay:
            for _ in range(ROUNDS):
                held.append(await grow())
                with replay.running():
                    beside.append(await grow())
        alone += [await grow() for _ in range(ROUNDS)]
    before = statistics.median(alone)
    return [
        measured("log: append on streams that grow", alone, "commands/s", "higher"),
        measured(
            "log: the same while a snapshot is held",
            [rate / before for rate in held],
            "x",
            "higher",
            target=0.9,
        ),
        measured(
            # Without a target: at full speed the replay takes a core, and has it from whom it competes with.
            f"log: the same while {BESIDE_EVENTS:,} events are replayed on the same cores",
            [rate / before for rate in beside],
            "x",
            "higher",
        ),
        measured("log: that replay meanwhile", [replay.rate], "events/s", "higher"),
    ]


@asynccontextmanager
async def growing_appends(database: Database) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """Give what lets producers append to their streams for a round, and says how many commands a second."""
    versions = {RunId(uuid7()): 0 for _ in range(PRODUCERS)}
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:

        async def grow() -> float:
            work = [list(growing(run_id, version, COMMANDS_EACH)) for run_id, version in versions.items()]
            for run_id in versions:
                versions[run_id] += COMMANDS_EACH
            return (await _round(log, work)).rate

        yield grow


class _Replay:
    """A process that holds a snapshot from its start on, and replays the log while it is let run."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._seconds = 0.0
        self.rate = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGCONT)
        started = time.perf_counter()
        yield
        self._process.send_signal(signal.SIGSTOP)
        self._seconds += time.perf_counter() - started

    async def end(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        out, _ = await self._process.communicate(b"")  # closes its input
        self.rate = int(out) / self._seconds


@asynccontextmanager
async def _replay(database: Database) -> AsyncIterator[_Replay]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.eventlog_snapshot", database.url("lineage")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise RuntimeError("the replay did not start")
    process.send_signal(signal.SIGSTOP)
    replay = _Replay(process)
    try:
        yield replay
    finally:
        await replay.end()


async def _round(log: PostgresEventLog, work: Iterable[Sequence[AppendCommand]]) -> _Round:
    """Let each producer append its commands, one after the other."""
    seconds: list[float] = []

    async def produce(mine: Sequence[AppendCommand]) -> None:
        for command in mine:
            asked = time.perf_counter()
            await log.append(command)
            seconds.append(time.perf_counter() - asked)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for mine in work:
            group.create_task(produce(mine))
    rate = len(seconds) / (time.perf_counter() - started)
    return _Round(rate, statistics.median(seconds) * 1_000, statistics.quantiles(seconds, n=100)[98] * 1_000)


def _processor_seconds(engine: int) -> float:
    """Of this process and the database, so far; its connections stay open meanwhile."""
    return time.process_time() + sum(map(cpu_seconds, tree_of(engine)))


async def _create_raw_tables(database: Database) -> None:
    admin = await asyncpg.connect(database.admin_url)
    await admin.execute("create schema raw")
    for table in ("event", "event_id", "stream", "command"):
        await admin.execute(f"create table raw.{table} (like log.{table} including all)")
    await admin.close()


_RAW_INSERT = """
with placed as materialized (
  select $14::bigint + o as position, u.*
  from unnest($4::int[], $5::text[], $6::bigint[], $7::text[], $8::uuid[], $9::bytea[], $10::text[],
    $11::uuid[], $12::text[], $13::bytea[]) with ordinality
    u(command, stream, version, type, event_id, digest, correlation_id, causation_id, actor, payload, o)
), heads as (
  insert into raw.stream (stream, version) select stream, version from placed
), ids as (
  insert into raw.event_id (event_id, position, lane, digest)
  select event_id, position, $1::smallint, digest from placed
), known as (
  insert into raw.command (command_id, first_position, event_count, lane, digest)
  select command_id, $14 + o, 1, $1, digest
  from unnest($2::uuid[], $3::bytea[]) with ordinality u(command_id, digest, o)
)
insert into raw.event (lane, position, version, after_position, recorded_at, event_id, causation_id, stream,
  type, correlation_id, actor, payload)
select $1, position, version, 0, now(), event_id, causation_id, stream, type, correlation_id, actor, payload
from placed
"""


async def _raw_round(database: Database, count: int, size: int) -> float:
    """Insert such rows into tables of the same shape, so many at a time, positions given, nothing checked."""
    connection = await asyncpg.connect(database.admin_url)
    head = await connection.fetchval("select coalesce(max(position), 0) from raw.event")
    batches = [list(commands(size)) for _ in range(count)]
    started = time.perf_counter()
    for batch in batches:
        await connection.execute(_RAW_INSERT, *append_arguments([admit(command) for command in batch]), head)
        head += size
    rate = count * size / (time.perf_counter() - started)
    await connection.close()
    return rate
