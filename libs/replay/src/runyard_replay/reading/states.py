"""Anything that has state, as it was at a moment."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeVar, cast

from google.protobuf.message import Message

from runyard.artifact.v1.types_pb2 import Artifact
from runyard.history.v1.history_service_pb2 import (
    GetStateAsOfRequest,
    GetStateAsOfResponse,
    GpuState,
    PriceBookState,
    ProjectCostState,
    QueueState,
    SubjectKind,
)
from runyard.node.v1.types_pb2 import Node
from runyard.run.v1.types_pb2 import Run
from runyard_contracts.answer_size import items_that_fit
from runyard_contracts.ids import stream_name
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, NotFound
from runyard_eventlog.port import EventLog
from runyard_replay.folding.files import FileFold, leave_old_places_out
from runyard_replay.folding.nodes import node_after
from runyard_replay.folding.runs import apply_to_run
from runyard_replay.reading.gpus import gpus_as_of
from runyard_replay.reading.leases import lease_fold, price_fold
from runyard_replay.reading.moments import Moment, moment_of
from runyard_replay.reading.pages import read_stream
from runyard_replay.reading.queues import Queues
from runyard_replay.reading.registered import dataset_as_of, model_as_of, project_as_of
from runyard_replay.reading.subjects import Thing, find_thing, or_yard, run_of_id
from runyard_replay.views import readable

State = TypeVar("State", bound=Message)

WAITING_DEFAULT = 1_000
WAITING_MAX = 10_000
"""Most waiting runs of one answer: ten times as many would not go into a message."""
NODES_DEFAULT = 1_000
NODES_MAX = 5_000
"""Most nodes of one answer: one with eight GPUs takes two kilobytes."""


async def state_as_of(
    event_log: EventLog, request: GetStateAsOfRequest, clock: Clock, queues: Queues | None = None
) -> GetStateAsOfResponse:
    """Give a thing as it was.

    Args:
        event_log: what to read.
        request: the thing and the moment.
        clock: what now is.
        queues: what is remembered of the queue; without, all of the log is read for it.

    Raises:
        InvalidInput, NotFound, Ambiguous: as ``find_thing`` and ``parts_of``.
        Rejected: as ``Queues.shown``.
        OutOfRange: as ``moment_of``.
        Unavailable: the log did not answer in time.
    """
    moment = await moment_of(event_log, request.as_of, clock)
    subject = or_yard(request.subject)
    # Who folds a run sees whether it is there.
    thing = run_of_id(subject) or await find_thing(event_log, subject, moment.position)
    shown = await thing_as_of(event_log, thing, moment, queues, parts_of(request))
    if shown.HasField("cost"):
        # The oldest runs that would not go into a message are counted, and in the sums.
        del shown.cost.runs[len(items_that_fit(shown.cost.runs).items) :]
    if shown.HasField("file"):
        leave_old_places_out(shown.file)
    return shown


@dataclass(frozen=True, slots=True)
class Part:
    """Which of what is in one order are shown."""

    skipped: int = 0
    limit: int | None = None
    """None for all."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Which of the waiting runs of a queue are shown, and which nodes."""

    waiting: Part = Part()
    nodes: Part = Part()


def parts_of(request: GetStateAsOfRequest) -> Parts:
    """Give the parts that are asked for.

    Raises:
        InvalidInput: below 0, or too much at once (BAD_PAGE_SIZE).
    """
    return Parts(
        _part("waiting", request.waiting_skipped, request.waiting_max, WAITING_DEFAULT, WAITING_MAX),
        _part("nodes", request.nodes_skipped, request.nodes_max, NODES_DEFAULT, NODES_MAX),
    )


def _part(name: str, skipped: int, asked: int, default: int, most: int) -> Part:
    if skipped < 0 or not 0 <= asked <= most:
        raise InvalidInput(f"{name}_skipped is 0 or more, {name}_max at most {most}", code="BAD_PAGE_SIZE")
    return Part(skipped, asked or default)


async def thing_as_of(
    event_log: EventLog,
    thing: Thing,
    moment: Moment,
    queues: Queues | None = None,
    parts: Parts | None = None,
) -> GetStateAsOfResponse:
    """Give a thing that was found, as it was at a moment; of queue and nodes all, or a part.

    Raises:
        NotFound: it, or the version that is named, was not there yet.
        Unavailable: the log did not answer in time.
    """
    shown = GetStateAsOfResponse(position=moment.position, recorded_at=moment.recorded_at)
    queues, parts = queues or Queues(event_log, kept_runs_max=0), parts or Parts()
    match thing.kind:
        case SubjectKind.SUBJECT_KIND_RUN:
            shown.run.CopyFrom(await run_as_of(event_log, thing.id, moment.position))
        case SubjectKind.SUBJECT_KIND_NODE:
            shown.node.CopyFrom(await _node_as_of(event_log, thing.id, moment.position))
        case SubjectKind.SUBJECT_KIND_FILE:
            shown.file.CopyFrom(await _file_as_of(event_log, thing.id, moment.position))
        case SubjectKind.SUBJECT_KIND_QUEUE:
            shown.queue.CopyFrom(await _queue_as_of(queues, thing.id, moment, parts.waiting))
        case SubjectKind.SUBJECT_KIND_GPUS:
            shown.gpus.CopyFrom(await _gpus_as_of(event_log, moment.position, parts.nodes))
        case SubjectKind.SUBJECT_KIND_MODEL:
            shown.model.CopyFrom(await model_as_of(event_log, thing, moment.position))
        case SubjectKind.SUBJECT_KIND_DATASET:
            shown.dataset.CopyFrom(await dataset_as_of(event_log, thing, moment.position))
        case SubjectKind.SUBJECT_KIND_PROJECT:
            project = await project_as_of(event_log, thing.id, moment.position)
            shown.project.CopyFrom(project.state())
        case SubjectKind.SUBJECT_KIND_COST:
            shown.cost.CopyFrom(await _cost_as_of(event_log, thing.id, moment))
        case SubjectKind.SUBJECT_KIND_PRICES:
            fold = await price_fold(event_log, moment.position)
            shown.prices.CopyFrom(PriceBookState(prices=fold.newest_prices()))
        case SubjectKind.SUBJECT_KIND_YARD:
            shown.queue.CopyFrom(await _queue_as_of(queues, "", moment, parts.waiting))
            shown.gpus.CopyFrom(await _gpus_as_of(event_log, moment.position, parts.nodes))
        case _ as unknown:
            raise AssertionError(f"no state of subject kind {unknown}")
    return shown


def state_of(shown: GetStateAsOfResponse) -> Message:
    """Give the state within an answer; both parts of the yard are one message with nothing else in it."""
    parts = [value for field, value in shown.ListFields() if field.name not in _MOMENT]
    if len(parts) == 1:
        return cast("Message", parts[0])
    both = GetStateAsOfResponse()
    both.CopyFrom(shown)
    both.ClearField("position")
    both.ClearField("recorded_at")
    return both


_MOMENT = ("position", "recorded_at")


async def run_as_of(event_log: EventLog, run_id: str, position: int) -> Run:
    """Give a run as it was at a position.

    Raises:
        NotFound: it was not queued yet (RUN_NOT_FOUND).
        Unavailable: the log did not answer in time.
    """
    run: Run | None = None
    async for event in read_stream(event_log, stream_name("run", run_id), to=position):
        if readable(event) is not None:
            if run is None:
                run = Run()
            apply_to_run(run, event)
    return _there(run, "run", run_id, position)


async def _cost_as_of(event_log: EventLog, project: str, moment: Moment) -> ProjectCostState:
    fold, own = await asyncio.gather(
        lease_fold(event_log, moment.position, project),
        project_as_of(event_log, project, moment.position, with_names=False),
    )
    # In a thread, so that a long history does not hold other calls up.
    cost = await asyncio.to_thread(fold.project_cost, project, moment.horizon_ms)
    numbers = own.number_of_run
    for run in cost.runs:
        run.number = numbers.get(run.run_id, 0)
    return cost


async def _node_as_of(event_log: EventLog, node_id: str, position: int) -> Node:
    node: Node | None = None
    async for event in read_stream(event_log, stream_name("node", node_id), to=position):
        if readable(event) is not None:
            node = node_after(node, event)
    return _there(node, "node", node_id, position)


async def _file_as_of(event_log: EventLog, sha256: str, position: int) -> Artifact:
    fold = FileFold()
    async for event in read_stream(event_log, stream_name("artifact", sha256), to=position):
        if readable(event) is not None:
            fold.apply(event)
    return _there(fold.file(), "file", sha256, position)


async def _queue_as_of(queues: Queues, project: str, moment: Moment, part: Part) -> QueueState:
    return await queues.shown(moment, project, skipped=part.skipped, limit=part.limit)


async def _gpus_as_of(event_log: EventLog, position: int, part: Part) -> GpuState:
    return await gpus_as_of(event_log, position, skipped=part.skipped, limit=part.limit)


def _there(state: State | None, what: str, name: str, position: int) -> State:
    if state is None:
        raise NotFound(
            f"there is no {what} {name!r} at position {position}", code=f"{what.upper()}_NOT_FOUND"
        )
    return state
