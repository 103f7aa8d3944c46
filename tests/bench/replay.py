"""Benchmarks of replay, rebuild and questions about the past, on logs of growing size.

RUNYARD_BENCH_REPLAY_EVENTS names the sizes of the log ("10000,100000,1000000"; add 5000000 for the whole
curve). Rates are events of the log a second, wall time unless it says "CPU": that is a second of the Python
process's own work, on a machine that does other things too. At a million events 100,000 runs wait: first
questions about the past are asked straight on the log, on new connections, as with all services down; later
ones of the service's handlers, on the connections that it keeps. While the largest log is replayed a last
time, by a process that gives way to others, others append.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import asyncpg

from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    GetStateAsOfRequest,
    GetStateAsOfResponse,
    Subject,
    SubjectKind,
)
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.ids import stream_name
from runyard_core.clock import SystemClock
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.collector import set_collector
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.port import EventLog
from runyard_eventlog.querying import open_pool
from runyard_lineage.history import HistoryHandlers
from runyard_lineage.main import CONNECTIONS_KEPT, CONNECTIONS_MAX
from runyard_lineage.readiness import get_ready
from runyard_replay.direct import open_log
from runyard_replay.reading.states import state_as_of
from runyard_testkit import Database
from tests.bench.eventlog_append import growing_appends
from tests.bench.eventlog_setup import fresh_database
from tests.bench.replay_history import History
from tests.bench.replay_lives import EVENTS_A_RUN, EVENTS_TO_QUEUE, PROJECTS
from tests.bench.replay_worker import Job, Took
from tests.bench.result import Result, measured

SIZES = tuple(map(int, os.environ.get("RUNYARD_BENCH_REPLAY_EVENTS", "10000,100000,1000000").split(",")))
REBUILT_EVENTS = 100_000
REBUILDS = 7
AS_OF_EVENTS = 1_000_000
WAITING_RUNS = 100_000
WAITING_EVENTS = WAITING_RUNS * EVENTS_TO_QUEUE
PROJECT = "project-2"
"""One of those that share the waiting runs."""
RUN_QUESTIONS = 200
FIRST_QUESTIONS = 3
QUEUE_QUESTIONS = 5
BESIDE_SECONDS_MAX = 60.0
"""After it the replay goes on alone: on a busy machine, one that gives way hardly moves."""
Ask = Callable[[GetStateAsOfRequest], Awaitable[GetStateAsOfResponse]]
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
        history = History(database.admin_url)
        for size in sorted(SIZES):
            await _grow(history, size)
            replays[size] = [await _replay(database, size) for _ in range(_rounds(size))]
            _say(f"replayed {size:,} events {len(replays[size])} times")
            if size == REBUILT_EVENTS:
                results += await _rebuilds(database)
            if size == AS_OF_EVENTS:
                results += await _questions(database, history)
        results += await _beside(database, max(SIZES))
    return [*_replayed(replays), *results]


async def _grow(history: History, size: int) -> None:
    began = time.perf_counter()
    waiting = WAITING_RUNS if size == AS_OF_EVENTS else 0
    await history.grow_to(size - waiting * EVENTS_TO_QUEUE)
    await history.queue(waiting)
    _say(f"wrote the log up to {size:,} events in {time.perf_counter() - began:.0f} s")


def _rounds(size: int) -> int:
    return 5 if size <= 100_000 else 3 if size <= 1_000_000 else 1


async def _replay(database: Database, size: int) -> Took:
    lives_to = size - WAITING_EVENTS if size == AS_OF_EVENTS else size
    return await _in_a_process(Job("replay", _urls(database), size, lives_to_position=lives_to))


def _replayed(replays: dict[int, list[Took]]) -> list[Result]:
    results = []
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
    largest = [1 / one.end_over_begin for one in replays[max(replays)]]
    name = f"replay: rate at the end of {max(replays):,} events over that at their begin, by turns"
    return [*results, measured(name, largest, "x", "higher", target=0.9)]


async def _rebuilds(database: Database) -> list[Result]:
    """Rebuild both read models at once, in one process and in two."""
    urls = _urls(database)
    ones, one_cpus, twos = [], [], []
    for _ in range(REBUILDS):
        took = await _in_a_process(Job("rebuild", urls, REBUILT_EVENTS, ("lineage", "cost")))
        ones.append(REBUILT_EVENTS / took.seconds)
        one_cpus.append(REBUILT_EVENTS / took.cpu_seconds)
        both = await asyncio.gather(
            *(_in_a_process(Job("rebuild", urls, REBUILT_EVENTS, (one,))) for one in ("lineage", "cost"))
        )
        twos.append(REBUILT_EVENTS / max(one.seconds for one in both))
    _say(f"rebuilt lineage and cost of {REBUILT_EVENTS:,} events {2 * REBUILDS} times")
    name = "rebuild: lineage and cost"
    return [
        measured(f"{name}, one process", ones, "events/s", "higher", target=60_000),
        measured(f"{name}, one process (CPU)", one_cpus, "events/s", "higher"),
        measured(f"{name}, two processes", twos, "events/s", "higher", target=100_000),
    ]


async def _questions(database: Database, history: History) -> list[Result]:
    """Ask for runs and for the queue at moments of all of the log."""
    return [*await _first_questions(database, history), *await _later_questions(database, history)]


async def _first_questions(database: Database, history: History) -> list[Result]:
    """Ask as ``runyard history`` does with all services down: on new connections, remembering nothing."""
    queues, projects, runs = [], [], []
    for number in range(FIRST_QUESTIONS):
        async with open_log(database.url("reader")) as log:
            queues.append(await _milliseconds(_ask_queue(_straight(log), AS_OF_EVENTS)))
        async with open_log(database.url("reader")) as log:
            projects.append(await _milliseconds(_ask_queue(_straight(log), AS_OF_EVENTS, PROJECT)))
        async with open_log(database.url("reader")) as log:
            runs.append(await _milliseconds(_ask_run(_straight(log), history.run_ids[number], AS_OF_EVENTS)))
    _say(f"asked {FIRST_QUESTIONS} times for the queue and for a run on new connections")
    first = "first question of a process, straight on the log"
    return [
        measured(f"as-of: a queue of 100,000 runs, {first}", queues, "ms", "lower", target=300),
        measured(f"as-of: a project's 20,000 of them, {first}", projects, "ms", "lower", target=300),
        measured(f"as-of: a run, {first}", runs, "ms", "lower"),
    ]


async def _later_questions(database: Database, history: History) -> list[Result]:
    """Ask the handlers of the service that answers such questions, opened and made ready as it does it."""
    chosen = random.Random(7)
    raw = await asyncpg.connect(database.url("lineage"))
    lives_to = AS_OF_EVENTS - WAITING_EVENTS
    finished = lives_to // EVENTS_A_RUN
    runs, raws, queues, projects = [], [], [], []
    set_collector()
    async with (
        open_pool(database.url("lineage"), CONNECTIONS_MAX, connections_kept=CONNECTIONS_KEPT) as pool,
        open_event_log(pool) as log,
    ):
        handlers = HistoryHandlers(log, Doorbell(), SystemClock())
        await get_ready(pool, CONNECTIONS_KEPT, handlers)
        await raw.fetch(_STREAM, stream_name("run", history.run_ids[0]), 1)
        for _ in range(RUN_QUESTIONS):
            index = chosen.randrange(finished - 100)
            run_id, position = history.run_ids[index], chosen.randint((index + 100) * EVENTS_A_RUN, lives_to)
            runs.append(await _milliseconds(_ask_run(handlers.state_as_of, run_id, position)))
            raws.append(await _milliseconds(raw.fetch(_STREAM, stream_name("run", run_id), position)))
        for _ in range(QUEUE_QUESTIONS):
            position = chosen.randint(AS_OF_EVENTS - WAITING_EVENTS // 10, AS_OF_EVENTS)
            queues.append(await _milliseconds(_ask_queue(handlers.state_as_of, position)))
            projects.append(await _milliseconds(_ask_queue(handlers.state_as_of, position, PROJECT)))
    await raw.close()
    _say(f"asked the service's handlers {len(runs)} times for a run and {len(queues)} times for the queue")
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
        measured("as-of: a run, slowest", [max(runs)], "ms", "lower", target=5),
        measured("as-of: a queue of 90,000 to 100,000 runs", queues, "ms", "lower", target=300),
        measured("as-of: a project's fifth of them", projects, "ms", "lower", target=300),
    ]


def _straight(log: EventLog) -> Ask:
    return lambda request: state_as_of(log, request, SystemClock())


async def _ask_run(ask: Ask, run_id: str, position: int) -> None:
    subject = Subject(kind=SubjectKind.SUBJECT_KIND_RUN, name=run_id)
    answer = await ask(GetStateAsOfRequest(as_of=AsOf(position=position), subject=subject))
    if answer.run.run_id != run_id:
        raise AssertionError(f"{answer.run.run_id} is not {run_id}")


async def _ask_queue(ask: Ask, position: int, project: str = "") -> None:
    subject = Subject(kind=SubjectKind.SUBJECT_KIND_QUEUE, name=project)
    queue = (await ask(GetStateAsOfRequest(as_of=AsOf(position=position), subject=subject))).queue
    waiting = next(one.run_count for one in queue.counts if one.state == RunState.RUN_STATE_QUEUED)
    all_waiting = WAITING_RUNS - (AS_OF_EVENTS - position + 1) // EVENTS_TO_QUEUE
    if waiting != all_waiting if not project else abs(waiting * PROJECTS - all_waiting) >= PROJECTS:
        raise AssertionError(f"{waiting} runs wait at {position}")


async def _beside(database: Database, size: int) -> list[Result]:
    """Append to streams that grow while the whole log is replayed, and while that replay pauses, by turns."""
    ratios: list[float] = []
    running = 0.0
    async with growing_appends(database) as grow:
        await grow()  # warm
        process = await _begin_process()
        answer = asyncio.create_task(_answer_of(process, Job("beside", _urls(database), size)))
        while not answer.done() and running < BESIDE_SECONDS_MAX:
            began = time.perf_counter()
            beside = await grow()
            running += time.perf_counter() - began
            if answer.done():
                # It ended in the middle of this round.
                break
            with _paused(process):
                ratios.append(beside / await grow())
        took = await answer
    _say(f"appended {len(ratios)} times beside a replay of {size:,} events, and as often alone")
    name = f"append while {size:,} events are replayed with low priority, over append alone"
    return [
        measured(name, ratios, "x", "higher", target=0.9),
        measured("that replay, peak memory", [took.peak_bytes / _MIB], "MiB", "lower", target=300),
    ]


@contextmanager
def _paused(process: asyncio.subprocess.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def _milliseconds(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1_000


async def _in_a_process(job: Job) -> Took:
    return await _answer_of(await _begin_process(), job)


async def _begin_process() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.replay_worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def _answer_of(process: asyncio.subprocess.Process, job: Job) -> Took:
    out, _ = await process.communicate(json.dumps(asdict(job)).encode())
    if process.returncode:
        raise RuntimeError(f"{job.mode} ended with {process.returncode}")
    return Took(**json.loads(out))


def _urls(database: Database) -> dict[str, str]:
    return {role: database.url(role) for role in ("lineage", "cost")}


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
