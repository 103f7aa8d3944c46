"""The queue at any moment, whatever was asked before: what each run by itself shows at that moment."""

from __future__ import annotations

import asyncio
from collections import Counter

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Run, RunSpec, RunState
from runyard_contracts.ids import stream_name
from runyard_replay.reading.pages import read_stream
from runyard_replay.reading.queues import Queues
from runyard_replay.reading.states import run_as_of

from .yard import ALICE, Yard

RUNS = ("r1", "r2", "r3", "r4")
PROJECTS = {"r1": "red", "r2": "blue", "r3": "red", "r4": "blue"}
NEXT = {
    RunState.RUN_STATE_QUEUED: (ev.RunLeaseGranted(attempt=1), ev.RunStopRequested(), ev.RunFinished()),
    RunState.RUN_STATE_STARTING: (ev.RunStarted(attempt=1), ev.RunStopRequested(), ev.RunAttemptFailed()),
    RunState.RUN_STATE_RUNNING: (ev.RunStatusDetailSet(), ev.RunStopRequested(), ev.RunAttemptExited()),
    RunState.RUN_STATE_STOPPING: (ev.RunStarted(attempt=1), ev.RunAttemptExited(), ev.RunFinished()),
    RunState.RUN_STATE_FINISHING: (ev.RunFinished(), ev.RunRequeued(next_attempt=2)),
}


async def _history(choices: list[tuple[str, int]]) -> Yard:
    yard = Yard()
    for run_id, choice in choices:
        await yard.write("run", run_id, await _next_event(yard, run_id, choice), ALICE)
    return yard


async def _next_event(yard: Yard, run_id: str, choice: int) -> Message:
    if run_id not in {name.removeprefix("run-") for name in yard.versions}:
        spec = RunSpec(step="train", priority=choice % 2)
        return ev.RunQueued(run_id=run_id, project=PROJECTS[run_id], number=RUNS.index(run_id), spec=spec)
    run = await run_as_of(yard.log, run_id, 10_000)
    possible = NEXT.get(run.state, (ev.RunStaleReportReceived(),))
    return possible[choice % len(possible)]


async def _runs_at(yard: Yard, position: int) -> dict[str, Run]:
    runs = {}
    for run_id in RUNS:
        async for _ in read_stream(yard.log, stream_name("run", run_id), to=position):
            runs[run_id] = await run_as_of(yard.log, run_id, position)
            break
    return runs


@given(
    st.lists(st.tuples(st.sampled_from(RUNS), st.integers(0, 5)), min_size=1, max_size=25),
    st.lists(st.integers(1, 25), min_size=1, max_size=5),
    st.sampled_from([0, 3, 1_000]),
)
@settings(max_examples=30, deadline=None)
def test_the_queue_has_every_run_as_the_run_itself_was(
    choices: list[tuple[str, int]], positions: list[int], kept_runs_max: int
) -> None:
    async def check() -> None:
        yard = await _history(choices)
        queues = Queues(yard.log, spacing_events=2, kept_runs_max=kept_runs_max)
        for position in (min(position, len(choices)) for position in positions):
            fold = await queues.at(position)
            runs = await _runs_at(yard, position)
            for project in ("", "red", "blue"):
                mine = {one: run for one, run in runs.items() if project in ("", PROJECTS[one])}
                queue = fold.shown(Timestamp(), project)
                assert {one.state: one.run_count for one in queue.counts} == Counter(
                    run.state for run in mine.values()
                )
                assert {run.run_id for run in queue.waiting} == {
                    one for one, run in mine.items() if run.state == RunState.RUN_STATE_QUEUED
                }
                order = [(-run.priority, run.queued_position) for run in queue.waiting]
                assert order == sorted(order)

    asyncio.run(check())


def test_a_run_that_waits_again_says_so() -> None:
    async def check() -> None:
        yard = await _history([("r1", 0), ("r1", 0), ("r1", 2), ("r1", 1)])
        (run,) = (await Queues(yard.log).at(4)).shown(Timestamp()).waiting
        asked = await yard.log.read_stream(stream_name("run", "r1"))
        assert (run.attempt_count, run.queued_position) == (1, 1)
        assert run.queued_at == asked[3].envelope.occurred_at

    asyncio.run(check())


def test_no_more_is_kept_than_allowed() -> None:
    async def check() -> None:
        yard = await _history([(run_id, 0) for run_id in RUNS] + [("r1", 0), ("r2", 0), ("r3", 0)])
        queues = Queues(yard.log, spacing_events=1, kept_runs_max=5)
        for position in range(1, 8):
            await queues.at(position)
        assert 0 < queues.kept_run_count <= 5

    asyncio.run(check())
