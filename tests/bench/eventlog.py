"""Benchmarks of the event log: append (eventlog_append.py), replay beside a raw COPY, projection lag."""

from __future__ import annotations

import asyncio
import bisect
import gc
import io
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard.run.v1.events_pb2 import RunQueued
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.port import AppendCommand
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_eventlog.subscriber import follow
from runyard_testkit import Bus, Database
from tests.bench.eventlog_append import append, append_beside_replay
from tests.bench.eventlog_setup import commands, fresh_bus, fresh_database
from tests.bench.result import Result, measured
from tests.contract.stories import Stories

ROUNDS = 5
REPLAYED = 100_000
LAG_EVENTS_PER_SECOND = 1_000
LAG_SECONDS = 8
_TICK_SECONDS = 0.01


def benchmarks() -> list[Result]:
    """Measure on engines of their own, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        return asyncio.run(_benchmarks(Path(folder)))


async def _benchmarks(folder: Path) -> list[Result]:
    # As every service does once it has started.
    gc.collect()
    gc.freeze()
    async with fresh_database(folder) as database, fresh_bus(folder / "nats") as bus:
        return [
            *await append(database),
            *await _replay(database),
            *await append_beside_replay(database),
            *await _lag(database, bus),
        ]


async def _replay(database: Database) -> list[Result]:
    """Read the lane in pages, decode every message and fold it, beside a COPY of the same bytes."""
    ours, cpus, raws = [], [], []
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:
        head = (await log.head()).domain_position
        for command in commands((REPLAYED - head) // 1_000 + 1, 1_000):
            await log.append(command)
        # What the append rounds left behind is not of the replay.
        gc.collect()
        gc.freeze()
        admin = await asyncpg.connect(database.admin_url)
        await admin.execute("vacuum analyze")
        for _ in range(ROUNDS):
            rate, cpu_rate = await _replay_round(log)
            ours.append(rate)
            cpus.append(cpu_rate)
            raws.append(await _copy_round(admin))
        await admin.close()
    return [
        measured(
            "log: replay, decoded and folded",
            ours,
            "events/s",
            "higher",
            target=150_000,
            baseline=("raw COPY, not decoded", raws),
        ),
        measured("log: replay, a second of the process's own work", cpus, "events/s", "higher"),
    ]


async def _replay_round(log: PostgresEventLog) -> tuple[float, float]:
    counts: Counter[str] = Counter()
    head = (await log.head()).domain_position
    seen = 0
    started, worked = time.perf_counter(), time.process_time()
    async with aclosing(follow(log, Lane.LANE_DOMAIN, page_size=2_000)) as pages:
        async for page in pages:
            for event in page.events:
                message = event.message
                assert isinstance(message, RunQueued)
                counts[message.run_id] += message.number
            seen += len(page.events)
            if page.scanned_to == head:
                break
    return seen / (time.perf_counter() - started), seen / (time.process_time() - worked)


async def _copy_round(connection: asyncpg.Connection) -> float:
    out = io.BytesIO()
    started = time.perf_counter()
    done = await connection.copy_from_query(
        "select position, after_position, recorded_at, payload from log.domain_event order by position",
        output=out,
        format="binary",
    )
    return int(done.split()[1]) / (time.perf_counter() - started)


async def _lag(database: Database, bus: Bus) -> list[Result]:
    """1,000 events/s; from the append's answer to the rows being visible, over relay, bus and doorbell."""
    bell = Doorbell()
    appended: list[tuple[int, float]] = []
    visible: list[tuple[int, float]] = []
    rung: list[float] = []
    async with (
        _relay_process(database, bus),
        await PostgresEventLog.connect(database.url("scheduler")) as log,
        asyncpg.create_pool(database.url("scheduler"), min_size=2, max_size=6) as pool,
        PostgresEventLog(pool) as reading,
    ):
        projector = Projector(pool, reading, Stories(), schema="scheduler", doorbell=bell)
        background = [
            asyncio.ensure_future(bell.serve(bus.url, "scheduler", bus.password("scheduler"))),
            asyncio.ensure_future(projector.run()),
        ]
        await projector.wait_for((await log.head()).domain_position, 120)
        await _until_mirrored(bus, log)
        background.append(asyncio.ensure_future(_note_visible(projector, visible)))
        background.append(asyncio.ensure_future(_note_rings(bell, rung)))
        await _produce(log, appended)
        await projector.wait_for(appended[-1][0], 30)
        await asyncio.sleep(0.1)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
    positions = [position for position, _ in visible]
    lags = [
        max(0.0, visible[bisect.bisect_left(positions, position)][1] - at) * 1_000
        for position, at in appended
    ]
    rings = [(rung[i] - at) * 1_000 for _, at in appended if (i := bisect.bisect_left(rung, at)) < len(rung)]
    return [
        measured("log: projection lag p99 at 1,000/s", [_p99(lags)], "ms", "lower", target=150),
        measured("log: projection lag p50 at 1,000/s", [statistics.median(lags)], "ms", "lower"),
        measured("log: doorbell after append p99", [_p99(rings)], "ms", "lower"),
    ]


async def _produce(log: PostgresEventLog, appended: list[tuple[int, float]]) -> None:
    per_tick = int(LAG_EVENTS_PER_SECOND * _TICK_SECONDS)
    work = list(commands(LAG_EVENTS_PER_SECOND * LAG_SECONDS))

    async def append(command: AppendCommand) -> None:
        answer = await log.append(command)
        appended.append((answer.position, time.perf_counter()))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for tick, first in enumerate(range(0, len(work), per_tick)):
            await asyncio.sleep(max(0.0, started + tick * _TICK_SECONDS - time.perf_counter()))
            for command in work[first : first + per_tick]:
                group.create_task(append(command))
    appended.sort()


async def _note_visible(projector: Projector, visible: list[tuple[int, float]]) -> None:
    while True:
        await projector.wait_for(projector.checkpoint + 1, 3600)
        visible.append((projector.checkpoint, time.perf_counter()))


async def _note_rings(bell: Doorbell, rung: list[float]) -> None:
    while True:
        await bell.wait(bell.rings, 3600)
        rung.append(time.perf_counter())


async def _until_mirrored(bus: Bus, log: PostgresEventLog) -> None:
    """Wait until the relay has published what is there."""
    client = await bus.connect("test")
    head = (await log.head()).domain_position
    async with asyncio.timeout(300):
        while True:
            streams = await client.jetstream().streams_info()
            if streams and streams[0].state.last_seq >= head:
                break
            await asyncio.sleep(0.2)
    await client.close()


@asynccontextmanager
async def _relay_process(database: Database, bus: Bus) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "runyard_eventlog.relay",
        env={
            **os.environ,
            "RUNYARD_DATABASE_URL": database.url("relay"),
            "RUNYARD_NATS_URL": bus.url,
            "RUNYARD_NATS_USER": "relay",
            "RUNYARD_NATS_PASSWORD": bus.password("relay"),
            "RUNYARD_LOG_LEVEL": "WARNING",
        },
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]
