"""What sealing names on the way in and opening them on the way out costs a service of processor time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard.history.v1.history_service_pb2 import GetStateAsOfResponse, QueuedRun
from runyard.run.v1.scheduler_service_pb2 import GetRunRequest, ListRunsResponse, SubmitRunRequest
from runyard.run.v1.types_pb2 import CodeRef, Run, RunSpec
from runyard_eventlog.personal.edge import PersonalEdge
from runyard_eventlog.personal.keyring import Keyring
from runyard_eventlog.personal.yard_key import YARD_KEY_BYTES, YardKey
from tests.bench.eventlog_setup import fresh_database
from tests.bench.result import Result, measured

REPEATS = 7
PERSON_COUNT = 5
LIST_RUNS = 1_000
QUEUE_RUNS = 100_000

Call = Callable[[], Awaitable[object]]


def benchmarks() -> list[Result]:
    """Measure with keys of a real database."""
    return asyncio.run(_measure())


async def _measure() -> list[Result]:
    with TemporaryDirectory() as folder:
        async with (
            fresh_database(Path(folder)) as database,
            asyncpg.create_pool(database.url("scheduler"), min_size=1, max_size=2) as pool,
        ):
            edge = PersonalEdge(Keyring(pool, YardKey(os.urandom(YARD_KEY_BYTES))))
            actors = [Actor(kind=ActorKind.ACTOR_KIND_USER, id=f"user-{n}") for n in range(PERSON_COUNT)]
            sealed = [f"user:{(await edge.seal_actor(actor)).id}" for actor in actors]
            runs = ListRunsResponse(runs=[_run(number, sealed) for number in range(LIST_RUNS)])
            queue = GetStateAsOfResponse()
            for number in range(QUEUE_RUNS):
                queue.queue.waiting.append(_queued(number, sealed))
            return [
                measured(
                    "seal a caller",
                    await _microseconds(lambda: edge.seal_actor(actors[0]), 2_000),
                    "us",
                    "lower",
                ),
                measured(
                    "seal the author of a submitted run",
                    await _microseconds(lambda: edge.seal_request(_request()), 2_000),
                    "us",
                    "lower",
                    target=100,
                ),
                measured(
                    "look at a request that names nobody",
                    await _microseconds(lambda: edge.seal_request(GetRunRequest(name="1")), 5_000),
                    "us",
                    "lower",
                    target=5,
                ),
                await _opening(edge, f"open {LIST_RUNS:,} runs of a list", runs, 20, target=15_000),
                await _opening(edge, f"open a queue of {QUEUE_RUNS:,} runs", queue, 1, target=250_000),
            ]


async def _opening(
    edge: PersonalEdge, name: str, answer: ListRunsResponse | GetStateAsOfResponse, count: int, target: float
) -> Result:
    """Measure beside what gRPC does with the answer anyway."""

    async def serialize() -> object:
        return answer.SerializeToString()

    opened = await _microseconds(lambda: edge.open_answer(answer), count)
    raw = await _microseconds(serialize, count)
    return measured(name, opened, "us", "lower", target=target, baseline=("serialize it", raw))


async def _microseconds(call: Call, count: int) -> list[float]:
    await call()
    samples = []
    for _ in range(REPEATS):
        started = time.process_time()
        for _ in range(count):
            await call()
        samples.append((time.process_time() - started) / count * 1e6)
    return samples


def _run(number: int, sealed: list[str]) -> Run:
    return Run(
        run_id=f"01980000-0000-7000-8000-{number:012}",
        project="digits",
        number=number,
        spec=RunSpec(step="train", command_lines=["python train.py"], code=CodeRef(tree_sha256="a" * 64)),
        submitted_by=sealed[number % PERSON_COUNT],
        title="a title as people write them",
    )


def _queued(number: int, sealed: list[str]) -> QueuedRun:
    return QueuedRun(
        run_id=f"01980000-0000-7000-8000-{number:012}",
        project="digits",
        number=number,
        step="train",
        submitted_by=sealed[number % PERSON_COUNT],
    )


def _request() -> SubmitRunRequest:
    code = CodeRef(tree_sha256="a" * 64, git_author="Alice Example <alice@example.com>")
    return SubmitRunRequest(project="digits", spec=RunSpec(step="train", code=code))
