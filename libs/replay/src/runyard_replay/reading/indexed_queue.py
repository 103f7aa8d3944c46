"""The queue out of the log's index: only the runs that are shown, and those that moved, are read.

The index tells which runs were queued and not finished, and whose they are: a run is numbered within its
project directly before it is queued. Of those that nothing else happened to it takes the priority to tell
their places: that is looked at in their stored events, and remembered. The few others are folded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from operator import itemgetter

from runyard.history.v1.history_service_pb2 import QueuedRun, QueueState
from runyard.history.v1.queue_glance_pb2 import QueuedGlances
from runyard.run.v1.events_pb2 import RunQueued
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.ids import stream_name
from runyard_core.fan_out import fan_out
from runyard_eventlog.port import EventLog
from runyard_eventlog.stream_index import (
    PAYLOADS_EACH,
    PAYLOADS_TOGETHER,
    OpenStreams,
    StreamIndex,
    stream_index_of,
)
from runyard_replay.folding.queue import (
    FINISHED_TYPE,
    NUMBERED_TYPE,
    PLACED_TYPES,
    QUEUED_TYPE,
    Place,
    front_of,
    queue_state,
    queued_run,
    unreadable,
)
from runyard_replay.reading.moments import Moment
from runyard_replay.reading.some_runs import fold_runs
from runyard_replay.views import readable

PRIORITIES_MAX = 300_000
"""Runs whose priority is remembered: some 30 MB."""
_PAYLOADS_AT_ONCE = 3
_QUEUED = RunState.RUN_STATE_QUEUED
_FINISHED = RunState.RUN_STATE_FINISHED


class IndexedQueue:
    """Answers for logs that have an index of all of the domain lane."""

    def __init__(self, event_log: EventLog) -> None:
        """Remember nothing yet."""
        self._event_log = event_log
        self._priorities: dict[int, int] = {}

    async def shown(self, moment: Moment, project: str, skipped: int, limit: int | None) -> QueueState | None:
        """Give a part of the queue as ``Queues.shown``; None where there is no index that tells it.

        Raises:
            Rejected: as ``Queues.shown``.
            Unavailable: the log did not answer in time.
        """
        index = await stream_index_of(self._event_log)
        if index is None:
            return None
        streams = await _open(index, moment.position, project)
        if streams is None:
            return None
        begun = sorted(streams.begun)
        moved, priority_at = await asyncio.gather(
            fold_runs(index, streams.moved, moment.position), self._priorities_of(index, begun)
        )
        elsewhere = {run.queued_position for run in moved.asked()}
        resting = [position for position in begun if position not in elsewhere]
        again = moved.waiting(project)
        # Sorting keeps the order of what is equal.
        first = sorted(resting, key=priority_at.__getitem__, reverse=True)
        places = [
            (-priority_at[position], position)
            for position in first[: None if limit is None else skipped + limit]
        ]
        front = front_of([*again, *places], skipped, limit)
        runs = await _read(index, [place[1] for place in front if place not in again])
        if await stream_index_of(self._event_log) is None:
            # A partition was detached meanwhile.
            return None
        counts = moved.counts(project)
        counts[_QUEUED] += len(resting)
        counts[_FINISHED] += streams.ended_count
        waiting = (runs[place] if place in runs else again[place] for place in front)
        return queue_state(waiting, +counts, moment.time)

    async def _priorities_of(self, index: StreamIndex, positions: Sequence[int]) -> Mapping[int, int]:
        """Give the priorities of runs, and of any others that are remembered, by ascending positions."""
        known = self._priorities
        new = [position for position in positions if position not in known]
        if len(known) + len(new) > PRIORITIES_MAX:
            known = self._priorities = {}
            new = list(positions)

        async def look(part: Sequence[int]) -> None:
            groups = await index.payloads(part)
            for start, payloads in zip(range(0, len(part), PAYLOADS_TOGETHER), groups, strict=True):
                together = part[start : start + PAYLOADS_TOGETHER]
                found = _glanced(payloads, len(together)) or await _looked_up(index, together)
                known.update(zip(together, found, strict=True))

        parts = [new[start : start + PAYLOADS_EACH] for start in range(0, len(new), PAYLOADS_EACH)]
        await fan_out(_PAYLOADS_AT_ONCE, look, parts)
        return known


async def _open(index: StreamIndex, to: int, project: str) -> OpenStreams | None:
    """Find the runs that began and did not finish; those of a project by the events that number its runs.

    None where these do not stand directly before the runs' first: in a log that holds a part of another.
    """
    finding = index.open_streams(QUEUED_TYPE, PLACED_TYPES, FINISHED_TYPE, to)
    if not project:
        return await finding
    # What the event at the position itself numbers is not queued yet.
    stream, last = stream_name("project", project), to - 1
    streams, (own_count, other_count) = await asyncio.gather(
        finding, index.counts(NUMBERED_TYPE, stream, last)
    )
    begun = set(streams.begun)
    first = min(begun, default=to) - 1
    own, others = await index.positions(NUMBERED_TYPE, stream, first, last) if begun else ((), ())
    own_begun = begun.intersection(position + 1 for position in own)
    all_begun = own_begun.union(position + 1 for position in others)
    if own_count + other_count != len(begun) + streams.ended_count or not begun <= all_begun:
        return None
    return OpenStreams(list(own_begun), streams.moved, own_count - len(own_begun))


def _glanced(payloads: bytes, count: int) -> list[int]:
    """Look at the priorities of runs; empty when the payload of one is large, and so not in its envelope."""
    specs = QueuedGlances.FromString(payloads).data.spec
    return [spec.priority for spec in specs] if len(specs) == count else []


async def _looked_up(index: StreamIndex, positions: Sequence[int]) -> list[int]:
    return [-negated for negated, _ in sorted(await _read(index, positions), key=itemgetter(1))]


async def _read(index: StreamIndex, positions: Sequence[int]) -> dict[Place, QueuedRun]:
    runs: dict[Place, QueuedRun] = {}
    for start in range(0, len(positions), PAYLOADS_EACH):
        for event in await index.events(positions[start : start + PAYLOADS_EACH]):
            message = readable(event)
            if message is None:
                raise unreadable(event)
            if isinstance(message, RunQueued):
                runs[-message.spec.priority, event.position] = queued_run(message, event)
    return runs
