"""kill -9 of any process while a run is training: the training goes on, nothing is lost or doubled."""

from __future__ import annotations

import hashlib
import json
import os
import random

import pytest

from runyard.history.v1.history_service_pb2 import ListEventsRequest
from runyard.metric.v1.metric_service_pb2 import QuerySeriesRequest, WatchRunRequest
from runyard.run.v1.types_pb2 import Outcome, Run, RunState
from tests.e2e.yard import Clients, Yard
from tests.faults.processes import kill_process, restarted

pytestmark = [
    pytest.mark.engines,
    pytest.mark.faults,
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("faults"),
]

STEPS = 40
EXIT_CODE = 7
VICTIMS: tuple[str, ...] = (
    "scheduler", "artifact", "metrics", "cost lineage relay", "agent", "nats", "postgres", "store",
)  # fmt: skip
"""In CI those that only follow the log die in one run; in the whole dose each dies alone."""

if os.environ.get("RUNYARD_FAULT_DOSE") == "whole":
    VICTIMS = tuple(" ".join(VICTIMS).split())
_EVENT_COUNTS = {
    "runyard.run.queued": 1,
    "runyard.run.lease_granted": 1,
    "runyard.run.started": 1,
    "runyard.environment.captured": 1,
    "runyard.run.attempt_exited": 1,
    "runyard.run.finished": 1,
}


async def _assert_whole(clients: Clients, run: Run) -> None:
    """The true exit status, every line and point once and in order, the output, each event once."""
    record = await clients.complete_record(run.run_id, timeout_seconds=120)
    assert (record.run.outcome, record.run.cause.exit_code) == (Outcome.OUTCOME_FAILED, EXIT_CODE)
    assert len(record.run.attempts) == 1
    assert await clients.lines(run.run_id) == [
        text for step in range(1, STEPS + 1)
        for text in (f"step {step} of {STEPS}", json.dumps({"step": step, "loss": 1 / step}))
    ]  # fmt: skip
    request = QuerySeriesRequest(run_id=run.run_id, names=["loss"], max_points=10 * STEPS)
    answer = await clients.metrics.QuerySeries(request, timeout=20)
    assert [list(series.values) for series in answer.series] == [[1 / s for s in range(1, STEPS + 1)]]
    expected = hashlib.sha256(f"model of {STEPS} steps\n".encode()).hexdigest()
    assert [(output.name, output.sha256) for output in record.outputs] == [("deep/model.txt", expected)]
    assert list(record.missing) == []
    assert record.complete

    events = ListEventsRequest(page_size=1000)
    events.filter.stream = f"run-{run.run_id}"
    history = await clients.history.ListEvents(events, timeout=20)
    types = [event.envelope.type for event in history.events]
    assert {name: types.count(name) for name in _EVENT_COUNTS} == _EVENT_COUNTS


@pytest.mark.parametrize("victims", VICTIMS)
async def test_a_killed_process_costs_a_training_run_nothing(
    yard: Yard, clients: Clients, victims: str
) -> None:
    submitted = json.loads(
        yard.cli(
            "run", "count", "--output", "json", "--executor", "process", "--exit-code", str(EXIT_CODE),
            "--steps", str(STEPS), "--delay-milliseconds", "100",
        ).stdout
    )  # fmt: skip
    run = await clients.reached(submitted["run"]["run_id"], RunState.RUN_STATE_RUNNING)

    former_pids = {victim: kill_process(yard, victim) for victim in victims.split()}

    for victim, former_pid in former_pids.items():
        await restarted(yard, victim, former_pid)
    await _assert_whole(clients, run)


async def test_killing_the_agent_again_and_again_loses_nothing(yard: Yard, clients: Clients) -> None:
    seed = int(os.environ.get("RUNYARD_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}: repeat with RUNYARD_TEST_SEED={seed}")
    moments = random.Random(seed)
    submitted = json.loads(
        yard.cli(
            "run", "count", "--output", "json", "--executor", "process", "--exit-code", str(EXIT_CODE),
            "--steps", str(STEPS), "--delay-milliseconds", "150",
        ).stdout
    )  # fmt: skip
    run = await clients.reached(submitted["run"]["run_id"], RunState.RUN_STATE_STARTING)
    # The supervisor gives up on a process that dies more than three times a minute: one died above.
    for _ in range(2):
        reached_line = moments.randrange(1, 10)
        await _lines_more(clients, run.run_id, reached_line)
        await restarted(yard, "agent", kill_process(yard, "agent"))
    await _assert_whole(clients, run)


async def _lines_more(clients: Clients, run_id: str, count: int) -> None:
    """Wait until so many more lines of a run are committed, or it is complete."""
    watch = clients.metrics.WatchRun(WatchRunRequest(run_id=run_id), timeout=60)
    known = len(await clients.lines(run_id))
    seen = 0
    async for item in watch:
        seen += item.WhichOneof("item") == "line"
        if seen >= known + count or item.WhichOneof("item") == "complete":
            break
    watch.cancel()
