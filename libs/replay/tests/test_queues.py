"""The queue at any moment, however it is found: what each run by itself shows at that moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    DiffStatesRequest,
    QueueState,
    StateCount,
    Subject,
    SubjectKind,
)
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Run, RunSpec, RunState
from runyard_contracts.ids import stream_name
from runyard_core.errors import Rejected, Unavailable
from runyard_eventlog.stream_index import PAYLOADS_TOGETHER
from runyard_replay.reading.comparing import diff_states
from runyard_replay.reading.indexed_queue import IndexedQueue
from runyard_replay.reading.moments import Moment
from runyard_replay.reading.pages import read_stream
from runyard_replay.reading.queues import Queues
from runyard_replay.reading.states import run_as_of

from .indexed_log import IndexedLog
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


async def _history(choices: list[tuple[str, int]], *, numbered: Collection[str] = RUNS) -> Yard:
    """Write what happens to runs; some of them are numbered within their project before they are queued."""
    yard = Yard()
    for run_id, choice in choices:
        message = await _next_event(yard, run_id, choice)
        if isinstance(message, ev.RunQueued) and run_id in numbered:
            project = PROJECTS[run_id]
            await yard.write("project", project, ev.ProjectRunNumbered(project=project, run_id=run_id))
        await yard.write("run", run_id, message, ALICE)
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


class LargeRunsLog(IndexedLog):
    """All runs are so large that their payloads are not in their envelopes."""

    async def payloads(self, positions: Sequence[int]) -> list[bytes]:
        return [b""] * len(range(0, len(positions), PAYLOADS_TOGETHER))


class SilentLog(IndexedLog):
    """Its database went away after it said which runs wait."""

    async def payloads(self, positions: Sequence[int]) -> list[bytes]:
        raise Unavailable("the log does not answer", code="LOG_UNREACHABLE")


def _moment(position: int) -> Moment:
    return Moment(position, Timestamp(), Timestamp(seconds=2_000_000_000))


@given(
    st.lists(st.tuples(st.sampled_from(RUNS), st.integers(0, 5)), min_size=1, max_size=25),
    st.lists(st.integers(1, 29), min_size=1, max_size=5),
    st.sampled_from([0, 3, 1_000]),
    st.sampled_from([RUNS, RUNS[1:], ()]),
)
@settings(max_examples=30, deadline=None)
def test_the_queue_has_every_run_as_the_run_itself_was(
    choices: list[tuple[str, int]], positions: list[int], kept_runs_max: int, numbered: Collection[str]
) -> None:
    async def check() -> None:
        yard = await _history(choices, numbered=numbered)
        folded = Queues(yard.log, spacing_events=2, kept_runs_max=kept_runs_max)
        indexed = Queues(IndexedLog(yard.log), spacing_events=0, kept_runs_max=0)
        for position in (min(position, len(yard.ids)) for position in positions):
            runs = await _runs_at(yard, position)
            for project in ("", "red", "blue"):
                mine = {one: run for one, run in runs.items() if project in ("", PROJECTS[one])}
                queue = await folded.shown(_moment(position), project)
                assert {one.state: one.run_count for one in queue.counts} == Counter(
                    run.state for run in mine.values()
                )
                assert {run.run_id for run in queue.waiting} == {
                    one for one, run in mine.items() if run.state == RunState.RUN_STATE_QUEUED
                }
                order = [(-run.priority, run.queued_position) for run in queue.waiting]
                assert order == sorted(order)
                assert await indexed.shown(_moment(position), project) == queue
                part = await indexed.shown(_moment(position), project, skipped=1, limit=2)
                assert part.waiting == queue.waiting[1:3]
                assert part.counts == queue.counts

    asyncio.run(check())


def test_the_index_tells_a_project_by_how_its_runs_are_numbered() -> None:
    async def check() -> None:
        choices = [("r1", 0), ("r2", 1), ("r3", 1), ("r1", 2), ("r3", 0), ("r4", 1)]
        log = IndexedLog((await _history(choices)).log)
        queue = await IndexedQueue(log).shown(_moment(10), "blue", 0, None)
        assert queue is not None
        assert [run.run_id for run in queue.waiting] == ["r2", "r4"]
        assert log.looked_at == [[4, 10]]
        red = await IndexedQueue(log).shown(_moment(10), "red", 0, None)
        assert red is not None
        assert [(one.state, one.run_count) for one in red.counts] == [
            (RunState.RUN_STATE_STARTING, 1),
            (RunState.RUN_STATE_FINISHED, 1),
        ]
        # r4 is numbered, and not yet queued.
        assert await IndexedQueue(log).shown(_moment(9), "blue", 0, None) == QueueState(
            waiting=queue.waiting[:1], counts=[StateCount(state=RunState.RUN_STATE_QUEUED, run_count=1)]
        )
        for numbered in ((), RUNS[1:], RUNS[:-1]):
            part = IndexedLog((await _history(choices, numbered=numbered)).log)
            head = (await part.head()).domain_position
            assert await IndexedQueue(part).shown(_moment(head), "blue", 0, None) is None

    asyncio.run(check())


@given(
    st.lists(st.tuples(st.sampled_from(RUNS), st.integers(0, 5)), min_size=1, max_size=20),
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
)
@settings(max_examples=15, deadline=None)
def test_the_index_tells_what_differs_as_all_events_do(
    choices: list[tuple[str, int]], span: tuple[int, int]
) -> None:
    async def check() -> None:
        yard = await _history(choices)
        begin, end = (AsOf(position=min(at, len(yard.ids))) for at in sorted(span))
        for name in ("", PROJECTS[choices[0][0]]):
            subject = Subject(kind=SubjectKind.SUBJECT_KIND_QUEUE, name=name)
            request = DiffStatesRequest(begin=begin, end=end, subject=subject)
            log = IndexedLog(yard.log)
            indexed = Queues(log, spacing_events=0, kept_runs_max=0)
            told = await diff_states(log, request, yard.clock, indexed)
            assert told == await diff_states(yard.log, request, yard.clock)

    asyncio.run(check())


def test_what_differs_is_looked_for_among_the_runs_that_moved() -> None:
    async def check() -> None:
        yard = await _history([("r1", 0), ("r2", 0), ("r3", 0), ("r1", 0), ("r4", 0)])
        log = IndexedLog(yard.log)
        subject = Subject(kind=SubjectKind.SUBJECT_KIND_QUEUE)
        request = DiffStatesRequest(begin=AsOf(position=6), end=AsOf(position=9), subject=subject)
        answer = await diff_states(log, request, yard.clock)
        assert {change.path.partition("]")[0] for change in answer.changes} == {
            *("waiting[r1", "waiting[r4", "counts[RUN_STATE_STARTING")
        }
        assert log.folded == [["run-r1", "run-r4"]] * 2

    asyncio.run(check())


def test_a_run_that_waits_again_says_so() -> None:
    async def check() -> None:
        yard = await _history([("r1", 0), ("r1", 0), ("r1", 2), ("r1", 1)], numbered=())
        (run,) = (await Queues(yard.log).shown(_moment(4))).waiting
        asked = await yard.log.read_stream(stream_name("run", "r1"))
        assert (run.attempt_count, run.queued_position) == (1, 1)
        assert run.queued_at == asked[3].envelope.occurred_at

    asyncio.run(check())


def test_a_run_too_large_for_its_envelope_is_in_its_place() -> None:
    async def check() -> None:
        yard = await _history([("r2", 0), ("r1", 1)], numbered=())
        queue = await Queues(LargeRunsLog(yard.log), spacing_events=0).shown(_moment(2))
        assert [(run.run_id, run.priority) for run in queue.waiting] == [("r1", 1), ("r2", 0)]

    asyncio.run(check())


def _queued(run_id: str) -> ev.RunQueued:
    return ev.RunQueued(run_id=run_id, project=PROJECTS[run_id], number=1, spec=RunSpec(step="train"))


@pytest.mark.parametrize("moves", [(), (ev.RunLeaseGranted(attempt=1),)])
async def test_a_run_whose_event_this_version_cannot_read_is_not_left_out_of_the_queue(
    moves: Sequence[Message],
) -> None:
    yard = Yard()
    await yard.write("run", "r1", _queued("r1"))
    await yard.write("run", "r2", _queued("r2"), schema_version=99)
    for message in moves:
        await yard.write("run", "r2", message)
    head = len(yard.ids)
    for queues in (Queues(yard.log), Queues(IndexedLog(yard.log), spacing_events=0)):
        with pytest.raises(Rejected, match=r"run r2 .*position 2.* newer") as refused:
            await queues.shown(_moment(head))
        assert (refused.value.code, refused.value.metadata) == ("EVENT_UNREADABLE", {"position": "2"})
        assert [run.run_id for run in (await queues.shown(_moment(1))).waiting] == ["r1"]


async def test_a_run_that_is_finished_is_counted_whatever_this_version_can_read_of_it() -> None:
    yard = Yard()
    await yard.write("run", "r1", _queued("r1"))
    await yard.write("run", "r2", _queued("r2"), schema_version=99)
    await yard.write("run", "r2", ev.RunFinished())
    await yard.write("run", "r1", ev.RunFinished(), schema_version=99)
    finished = [StateCount(state=RunState.RUN_STATE_FINISHED, run_count=2)]
    folded = Queues(yard.log)
    for queues in (folded, Queues(IndexedLog(yard.log), spacing_events=0)):
        assert list((await queues.shown(_moment(4))).counts) == finished
    # Whose it was is not known without its event.
    with pytest.raises(Rejected, match="position 2"):
        await folded.shown(_moment(4), "red")


def test_a_log_that_goes_away_meanwhile_is_said_as_it_is() -> None:
    async def check() -> None:
        yard = await _history([("r2", 0), ("r1", 1)], numbered=())
        with pytest.raises(Unavailable):
            await Queues(SilentLog(yard.log), spacing_events=0).shown(_moment(2))

    asyncio.run(check())


def test_what_is_remembered_is_not_looked_at_again() -> None:
    async def check() -> None:
        yard = await _history([("r2", 0), ("r1", 1)], numbered=())
        log = IndexedLog(yard.log)
        queues = Queues(log, spacing_events=0)
        await queues.remember(_moment(2))
        looked_at = list(log.looked_at)
        assert [run.run_id for run in (await queues.shown(_moment(2))).waiting] == ["r1", "r2"]
        assert log.looked_at == looked_at == [[1, 2]]

    asyncio.run(check())


def test_no_more_is_kept_than_allowed() -> None:
    async def check() -> None:
        yard = await _history(
            [(run_id, 0) for run_id in RUNS] + [("r1", 0), ("r2", 0), ("r3", 0)], numbered=()
        )
        queues = Queues(yard.log, spacing_events=1, kept_runs_max=5)
        for position in range(1, 8):
            await queues.at(position)
        assert 0 < queues.kept_run_count <= 5

    asyncio.run(check())
