"""Benchmarks of replay, rebuild and questions about the past, on logs of growing size.

RUNYARD_BENCH_REPLAY_EVENTS names the sizes of the log ("10000,100000,1000000"; add 5000000 for the whole
curve). Rates are events of the log a second, wall time unless it says "CPU": that is a second of the Python
process's own work, on a machine that does other things too. At a million events 100,000 runs wait.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

import asyncpg

from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import GetStateAsOfRequest, Subject, SubjectKind
from runyard_contracts.ids import stream_name
from runyard_core.clock import SystemClock
from runyard_eventlog.postgres import PostgresEventLog
from runyard_replay.reading.queues import Queues
from runyard_replay.reading.states import state_as_of
from runyard_testkit import Database
from tests.bench.eventlog_setup import fresh_database
from tests.bench.replay_history import EVENTS_A_RUN, History
from tests.bench.replay_worker import Job, Took
from tests.bench.result import Result, measured

SIZES = tuple(map(int, os.environ.get("RUNYARD_BENCH_REPLAY_EVENTS", "10000,100000,1000000").split(",")))
REBUILT_EVENTS = 100_000
AS_OF_EVENTS = 1_000_000
WAITING_RUNS = 100_000
RUN_QUESTIONS = 200
QUEUE_QUESTIONS = 10
_MIB = 1024 * 1024
_STREAM = "select payload from log.domain_event where stream = $1 and position <= $2 order by version"


def benchmarks() -> list[Result]:
    """Measure on a database of its own, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        return asyncio.run(_benchmarks(Path(folder)))


async def _benchmarks(folder: Path) -> list[Result]:
    results: list[Result] = []
    replays: dict[int, list[Took]] = {}
    async with fresh_database(folder) as database:
        admin = await asyncpg.connect(database.admin_url)
        history = History(admin)
        for size in sorted(SIZES):
            await _grow(history, size)
            replays[size] = [await _replay(database, size) for _ in range(_rounds(size))]
            _say(f"replayed {size:,} events {len(replays[size])} times")
            if size == REBUILT_EVENTS:
                results += await _rebuilds(database)
            if size == AS_OF_EVENTS:
                results += await _questions(database, history)
        await admin.close()
    return [*_replayed(replays), *results]


async def _grow(history: History, size: int) -> None:
    began = time.perf_counter()
    waiting = WAITING_RUNS if size == AS_OF_EVENTS else 0
    await history.grow_to(size - waiting)
    await history.queue(waiting)
    _say(f"wrote the log up to {size:,} events in {time.perf_counter() - began:.0f} s")


def _rounds(size: int) -> int:
    return 5 if size <= 100_000 else 3 if size <= 1_000_000 else 1


async def _replay(database: Database, size: int) -> Took:
    return await _in_a_process(Job("replay", _urls(database), size))


def _replayed(replays: dict[int, list[Took]]) -> list[Result]:
    results, best = [], []
    for size, took in replays.items():
        cpu = [size / one.cpu_seconds for one in took]
        raw_cpu = [size / one.raw_cpu_seconds for one in took]
        wall = [size / one.seconds for one in took]
        raw = [size / one.raw_seconds for one in took]
        name = f"replay: {size:,} events"
        results += [
            measured(
                f"{name}, per core (CPU)",
                cpu,
                "events/s",
                "higher",
                target=200_000,
                baseline=("asyncpg fetch, not decoded", raw_cpu),
            ),
            measured(name, wall, "events/s", "higher", baseline=("asyncpg fetch, not decoded", raw)),
            measured(
                f"{name}, peak memory", [one.peak_bytes / _MIB for one in took], "MiB", "lower", target=300
            ),
        ]
        best.append(max(cpu))
    if len(best) > 1:
        # The best of each, as the machine may have other work at one time and not at the other.
        name = "replay: rate of the largest log over the smallest"
        results.append(measured(name, [best[-1] / best[0]], "x", "higher", target=0.9))
    return results


async def _rebuilds(database: Database) -> list[Result]:
    """Rebuild both read models, one after the other in one process, and side by side in two."""
    urls = _urls(database)
    ones, one_cpus, twos = [], [], []
    for _ in range(3):
        took = await _in_a_process(Job("rebuild", urls, REBUILT_EVENTS, ("lineage", "cost")))
        ones.append(REBUILT_EVENTS / took.seconds)
        one_cpus.append(REBUILT_EVENTS / took.cpu_seconds)
        both = await asyncio.gather(
            *(_in_a_process(Job("rebuild", urls, REBUILT_EVENTS, (one,))) for one in ("lineage", "cost"))
        )
        twos.append(REBUILT_EVENTS / max(one.seconds for one in both))
    _say(f"rebuilt lineage and cost of {REBUILT_EVENTS:,} events 6 times")
    name = "rebuild: lineage and cost"
    return [
        measured(f"{name}, one process", ones, "events/s", "higher", target=60_000),
        measured(f"{name}, one process (CPU)", one_cpus, "events/s", "higher"),
        measured(f"{name}, two processes", twos, "events/s", "higher", target=100_000),
    ]


async def _questions(database: Database, history: History) -> list[Result]:
    """Ask for runs and for the queue at moments of all of the log."""
    chosen = random.Random(7)
    clock = SystemClock()
    raw = await asyncpg.connect(database.url("lineage"))
    finished = (AS_OF_EVENTS - WAITING_RUNS) // EVENTS_A_RUN
    runs, raws, queues = [], [], []
    async with await PostgresEventLog.connect(database.url("lineage")) as log:
        remembered = Queues(log)

        async def ask(kind: SubjectKind.ValueType, name: str, position: int) -> int:
            subject = Subject(kind=kind, name=name)
            request = GetStateAsOfRequest(as_of=AsOf(position=position), subject=subject)
            return len((await state_as_of(log, request, clock, remembered)).queue.waiting)

        for _ in range(RUN_QUESTIONS):
            index = chosen.randrange(finished)
            run_id, position = history.run_ids[index], chosen.randint((index + 100) * EVENTS_A_RUN, 900_000)
            runs.append(await _milliseconds(lambda: ask(SubjectKind.SUBJECT_KIND_RUN, run_id, position)))  # noqa: B023
            raws.append(await _milliseconds(lambda: raw.fetch(_STREAM, stream_name("run", run_id), position)))  # noqa: B023
        began = time.perf_counter()
        waiting = await ask(SubjectKind.SUBJECT_KIND_QUEUE, "", AS_OF_EVENTS)
        first = (time.perf_counter() - began) * 1_000
        if waiting < WAITING_RUNS:
            raise AssertionError(f"{waiting} runs wait")
        for _ in range(QUEUE_QUESTIONS):
            position = chosen.randint(AS_OF_EVENTS - WAITING_RUNS // 10, AS_OF_EVENTS)
            queues.append(await _milliseconds(lambda: ask(SubjectKind.SUBJECT_KIND_QUEUE, "", position)))  # noqa: B023
    await raw.close()
    _say(f"asked {len(runs)} times for a run and {len(queues)} times for the queue")
    return [
        measured(
            "as-of: a run, at 1 M events",
            runs,
            "ms",
            "lower",
            target=5,
            baseline=("its rows by asyncpg", raws),
        ),
        measured("as-of: a run, p99", [sorted(runs)[-len(runs) // 100]], "ms", "lower", target=5),
        measured("as-of: a queue of 100,000 runs, first question", [first], "ms", "lower"),
        measured("as-of: a queue of 90,000 to 100,000 runs", queues, "ms", "lower", target=300),
    ]


async def _milliseconds(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1_000


async def _in_a_process(job: Job) -> Took:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.replay_worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(json.dumps(asdict(job)).encode())
    if process.returncode:
        raise RuntimeError(f"{job.mode} ended with {process.returncode}")
    return Took(**json.loads(out))


def _urls(database: Database) -> dict[str, str]:
    return {role: database.url(role) for role in ("lineage", "cost")}


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
