"""The queue out of the log's index: only the runs that are shown, and those that moved, are read.

The index tells which runs were queued and not finished. Of those that nothing else happened to it takes the
priority to tell their places: that is looked at in their stored events, and remembered. The few others are
folded.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import QueuedRun, QueueState
from runyard.history.v1.queue_glance_pb2 import QueuedGlances
from runyard.run.v1.events_pb2 import RunQueued
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.ids import Position, StreamName
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.stream_index import PAYLOADS_EACH, HasStreamIndex, StreamIndex
from runyard_replay.folding.queue import (
    EVENT_TYPES,
    FINISHED_TYPE,
    PLACED_TYPES,
    QUEUED_TYPE,
    Place,
    QueueFold,
    front_of,
    queue_state,
    queued_run,
)
from runyard_replay.reading.moments import Moment
from runyard_replay.views import readable

PRIORITIES_MAX = 300_000
"""Runs whose priority is remembered: some 30 MB."""
_PAYLOADS_AT_ONCE = 2
_STREAMS_EACH = 500
_QUEUED = RunState.RUN_STATE_QUEUED
_FINISHED = RunState.RUN_STATE_FINISHED


class IndexedQueue:
    """Answers for logs that have an index of all of the domain lane."""

    def __init__(self, event_log: EventLog) -> None:
        """Remember nothing yet."""
        self._event_log = event_log
        self._priorities: dict[int, int] = {}

    async def shown(self, moment: Moment, skipped: int, limit: int | None) -> QueueState | None:
        """Give a part of the queue of all projects as ``Queues.shown``; None where there is no index.

        Raises:
            Unavailable: the log did not answer in time.
        """
        if not isinstance(self._event_log, HasStreamIndex):
            return None
        index = await self._event_log.stream_index()
        if index is None:
            return None
        streams = await index.open_streams(QUEUED_TYPE, PLACED_TYPES, FINISHED_TYPE, moment.position)
        moved = await self._fold(streams.moved, moment.position)
        resting = set(streams.begun).difference(run.queued_position for run in moved.asked())
        places = await self._places(index, resting, None if limit is None else skipped + limit)
        again = moved.waiting()
        front = front_of([*places, *again], skipped, limit)
        runs = await _read(index, [position for _, position in front if position in resting])
        if await self._event_log.stream_index() is None:
            # A partition was detached meanwhile.
            return None
        counts = moved.counts()
        counts[_QUEUED] += len(resting)
        counts[_FINISHED] += streams.ended_count
        waiting = (runs[place] if place in runs else again[place] for place in front)
        return queue_state(waiting, +counts, moment.time)

    async def _fold(self, streams: Sequence[StreamName], to: int) -> QueueFold:
        """Fold the runs of these streams; the order of runs among each other does not matter."""
        fold = QueueFold()
        for start in range(0, len(streams), _STREAMS_EACH):
            wanted = EventFilter(types=EVENT_TYPES, streams=streams[start : start + _STREAMS_EACH])
            after = 0
            while after < to:
                page = await self._event_log.read(
                    Lane.LANE_DOMAIN, after_position=Position(after), to_position=Position(to), filter=wanted
                )
                for event in page.events:
                    if readable(event) is not None:
                        fold.apply(event)
                after = page.scanned_to
        return fold

    async def _places(self, index: StreamIndex, resting: Iterable[int], count: int | None) -> list[Place]:
        """Give the places of runs; only the first so many of each priority, as no other can be in front."""
        known = self._priorities
        resting = sorted(resting)
        new = [position for position in resting if position not in known]
        if len(known) + len(new) > PRIORITIES_MAX:
            known = self._priorities = {}
            new = resting
        gate = asyncio.Semaphore(_PAYLOADS_AT_ONCE)

        async def look(positions: Sequence[int]) -> None:
            async with gate:
                specs = QueuedGlances.FromString(await index.payloads(positions)).data.spec
            if len(specs) == len(positions):
                known.update(zip(positions, [spec.priority for spec in specs], strict=True))
                return
            # The payload of one is not in its envelope, as it is large.
            read = await _read(index, positions)
            known.update((position, -negated) for negated, position in read)

        async with asyncio.TaskGroup() as group:
            for start in range(0, len(new), PAYLOADS_EACH):
                group.create_task(look(new[start : start + PAYLOADS_EACH]))
        left = defaultdict[int, int](lambda: len(resting) if count is None else count)
        places: list[Place] = []
        for position in resting:
            priority = known[position]
            if left[priority]:
                left[priority] -= 1
                places.append((-priority, position))
        return places


async def _read(index: StreamIndex, positions: Sequence[int]) -> dict[Place, QueuedRun]:
    runs: dict[Place, QueuedRun] = {}
    for start in range(0, len(positions), PAYLOADS_EACH):
        for event in await index.events(positions[start : start + PAYLOADS_EACH]):
            message = event.message
            if isinstance(message, RunQueued):
                runs[-message.spec.priority, event.position] = queued_run(message, event)
    return runs
