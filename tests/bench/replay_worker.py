"""``python -m tests.bench.replay_worker``: replays or rebuilds in a process of its own, for time and memory.

Takes a job as JSON on standard input and gives what it took as JSON on standard output.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import Counter, defaultdict
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_core.projection import Projection
from runyard_cost.projections.leases import CostProjection
from runyard_eventlog.builds import Builds
from runyard_eventlog.collector import keep_memory, set_collector
from runyard_eventlog.filling import fill
from runyard_eventlog.giving_way import give_way
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.readmodel import Build
from runyard_eventlog.subscriber import follow
from runyard_lineage.projections.edges import EdgesProjection
from tests.bench.replay_history import RUNS_AT_ONCE
from tests.bench.replay_lives import EVENTS_A_RUN

PAGE_EVENTS = 2_000
COMPARED_EVENTS = 4 * RUNS_AT_ONCE * EVENTS_A_RUN
"""Wherever in the lives of runs they begin, they hold as many of each kind."""
TURNS = 50
_RAW = "select position, payload from log.domain_event where position > $1 order by position limit $2"
_PROJECTIONS: dict[str, type[Projection[Any]]] = {"lineage": EdgesProjection, "cost": CostProjection}


@dataclass(frozen=True, slots=True)
class Job:
    """What to do."""

    mode: Literal["replay", "rebuild", "beside"]
    """A replay "beside" others gives way to them, and is all that is done."""
    urls: dict[str, str]
    """Database addresses by role."""
    to_position: int
    services: tuple[str, ...] = ()
    """Whose read models to rebuild, at once."""
    lives_to_position: int = 0
    """Up to here the log holds lives of runs; after it, runs that wait."""


@dataclass(frozen=True, slots=True)
class Took:
    """What it took, and what the bare driver took for the same rows without decoding them."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int = 0
    raw_seconds: float = 0.0
    raw_cpu_seconds: float = 0.0
    end_over_begin: float = 0.0
    """Processor time of events at the end of the log, over that of as many at its begin, by turns."""


async def _work(job: Job) -> Took:
    if job.mode == "beside":
        give_way()
    if job.mode != "rebuild":
        return await _replay(job)
    clock = _Clock()
    took = await asyncio.gather(*(_rebuild(job, service) for service in job.services))
    # Side by side in one process, from the first that begins to the last that ends.
    _, cpu_seconds = clock.read()
    return Took(max(ended for _, ended in took) - min(begun for begun, _ in took), cpu_seconds)


async def _replay(job: Job) -> Took:
    """Decode every message, and count them by type and run."""
    # Of the library's dictionaries, the one that takes the least of what is measured here.
    counts: defaultdict[type, int] = defaultdict(int)
    last_runs: dict[str, str] = {}
    async with await PostgresEventLog.connect(job.urls["lineage"]) as log:
        clock = _Clock()
        async with aclosing(follow(log, Lane.LANE_DOMAIN, page_size=PAGE_EVENTS)) as pages:
            async for page in pages:
                for event in page.events:
                    message = event.message
                    counts[type(message)] += 1
                    last_runs[event.envelope.type] = event.envelope.stream
                if page.scanned_to >= job.to_position:
                    break
        took, peak = clock.read(), _peak_bytes()
    if (counted := sum(counts.values())) != job.to_position:
        raise AssertionError(f"{counted} events of {job.to_position}")
    if job.mode == "beside":
        return Took(*took, peak)
    raw = await _fetch_raw(job)
    return Took(*took, peak, *raw, await _end_over_begin(job))


async def _end_over_begin(job: Job) -> float:
    """Read the same kinds of events at both ends by turns, so that other work of the machine slows both.

    A run that is queued is a third larger than the events of its life are on average.
    """
    cpu_seconds = {0: list[float](), job.lives_to_position - COMPARED_EVENTS: list[float]()}
    async with await PostgresEventLog.connect(job.urls["lineage"]) as log:
        for _ in range(TURNS):
            for begin, found in cpu_seconds.items():
                began = time.process_time()
                page = await log.read(Lane.LANE_DOMAIN, after_position=Position(begin), limit=COMPARED_EVENTS)
                types = Counter(type(event.message) for event in page.events)
                found.append(time.process_time() - began)
                if types.total() != COMPARED_EVENTS:
                    raise AssertionError(f"{types.total()} events after {begin}")
    begin_seconds, end_seconds = map(statistics.median, cpu_seconds.values())
    return end_seconds / begin_seconds


async def _fetch_raw(job: Job) -> tuple[float, float]:
    connection = await asyncpg.connect(job.urls["lineage"])
    clock, position = _Clock(), 0
    while position < job.to_position:
        position = (await connection.fetch(_RAW, position, PAGE_EVENTS))[-1]["position"]
    took = clock.read()
    await connection.close()
    return took


async def _rebuild(job: Job, service: str) -> tuple[float, float]:
    """Build tables beside the live ones as a rebuild does, until they can be compared: rows and indexes.

    Gives when it began and ended, in seconds of ``time.perf_counter``.
    """
    projection = _PROJECTIONS[service]()
    built = ProjectionStore(projection, service, Build.NEW)
    async with (
        asyncpg.create_pool(job.urls[service], min_size=2, max_size=5) as pool,
        PostgresEventLog(pool) as log,
    ):
        async with pool.acquire() as connection:
            await built.create(connection)
            place = await built.place(connection)
        begun = time.perf_counter()
        filled = fill(
            pool,
            log,
            built,
            projection,
            lane=Lane.LANE_DOMAIN,
            place=place,
            to_position=job.to_position,
        )
        async with aclosing(filled) as batches:
            async for batch in batches:
                place = batch.place
        await built.index(pool)
        ended = time.perf_counter()
        if place.position != Position(job.to_position) or place.parked_streams:
            raise AssertionError(f"{service} came to {place}, not to {job.to_position}")
        builds = Builds(projection, service)
        async with pool.acquire() as connection:
            for kept in await builds.kept(connection):
                if kept.build is Build.NEW:
                    await builds.drop(connection, kept)
    return begun, ended


class _Clock:
    def __init__(self) -> None:
        self._begun = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Give the seconds since the beginning, and those that this process worked."""
        return time.perf_counter() - self._begun[0], time.process_time() - self._begun[1]


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise LookupError("VmHWM")


def run(job: Job) -> Took:
    """Do a job in this process, which starts as a service and its rebuild worker do."""
    set_collector()
    if job.mode == "rebuild":
        keep_memory()
    return asyncio.run(_work(job))


if __name__ == "__main__":
    json.dump(asdict(run(Job(**json.load(sys.stdin)))), sys.stdout)
