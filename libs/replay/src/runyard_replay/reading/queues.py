"""The queue at any moment: out of the log's index where it has one, else by folding the log.

Folds of earlier questions are kept, so that the next one begins near one of them.
"""

from __future__ import annotations

import bisect
from contextlib import aclosing

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import QueueState
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.stream_index import StreamIndex, stream_index_of
from runyard_replay.folding.queue import EVENT_TYPES, QueueFold, front_of, queue_state
from runyard_replay.reading.indexed_queue import IndexedQueue
from runyard_replay.reading.moments import Moment
from runyard_replay.reading.pages import read_pages
from runyard_replay.views import readable

SPACING_EVENTS = 10_000
"""Positions between two folds that are kept; more where they would hold too much."""
KEPT_RUNS_MAX = 300_000
"""Unfinished runs in all folds that are kept: some 60 MB when it is full, which takes long queues."""


class Queues:
    """Remembers the queue at some positions of a log. Past positions never change, so neither do these."""

    def __init__(
        self,
        event_log: EventLog,
        *,
        spacing_events: int = SPACING_EVENTS,
        kept_runs_max: int = KEPT_RUNS_MAX,
    ) -> None:
        """Remember nothing yet.

        Args:
            event_log: where events are read.
            spacing_events: positions between two folds that are kept. A question that is further away from
                one is answered by the log's index, if it has one.
            kept_runs_max: unfinished runs in all of them; 0 keeps none.
        """
        self._event_log = event_log
        self._spacing = spacing_events
        self._kept_runs_max = kept_runs_max
        self._kept: dict[int, QueueFold] = {0: QueueFold()}
        self._positions = [0]
        self._indexed = IndexedQueue(event_log)

    @property
    def kept_run_count(self) -> int:
        """Unfinished runs in all folds that are kept."""
        return sum(map(len, self._kept.values()))

    async def shown(
        self, moment: Moment, project: str = "", *, skipped: int = 0, limit: int | None = None
    ) -> QueueState:
        """Give a part of the queue at a moment, and the counts of all of it.

        Args:
            moment: when; waits are counted up to its time.
            project: whose runs; "" for all.
            skipped: waiting runs at its front that are left out.
            limit: most waiting runs to give; None for all.

        Raises:
            Rejected: this version cannot read what a run asked for (EVENT_UNREADABLE); with an index only of
                those that are shown or that moved.
            Unavailable: the log did not answer in time.
        """
        if moment.position - self._kept_before(moment.position) > self._spacing:
            indexed = await self._indexed.shown(moment, project, skipped, limit)
            if indexed is not None:
                return indexed
        fold = await self.at(moment.position)
        waiting = fold.waiting(project)
        front = front_of(waiting, skipped, limit)
        return queue_state((waiting[place] for place in front), fold.counts(project), moment.time)

    async def index(self) -> StreamIndex | None:
        """Give the log's index of streams, if it has one.

        Raises:
            Unavailable: the log did not answer in time.
        """
        return await stream_index_of(self._event_log)

    async def remember(self, moment: Moment) -> None:
        """Look at the queue at a moment, so that the next question is answered as fast as later ones.

        Without an index nothing is looked at, as it would take reading all of the log.

        Raises:
            Unavailable: the log did not answer in time.
        """
        await self._indexed.shown(moment, "", 0, 1)

    async def at(self, position: int) -> QueueFold:
        """Fold the queue at a position; not to be changed.

        Raises:
            Unavailable: the log did not answer in time.
        """
        kept = self._kept_before(position)
        if kept == position:
            return self._kept[kept]
        fold = self._kept[kept].copy()
        pages = read_pages(
            self._event_log,
            Lane.LANE_DOMAIN,
            after=kept,
            to=position,
            wanted=EventFilter(types=EVENT_TYPES),
        )
        async with aclosing(pages):
            async for page in pages:
                for event in page.events:
                    if readable(event) is None:
                        fold.pass_over(event)
                    else:
                        fold.apply(event)
                if page.scanned_to - kept >= self._spacing:
                    kept = page.scanned_to
                    self._keep(kept, fold)
        return fold

    def _kept_before(self, position: int) -> int:
        return self._positions[bisect.bisect_right(self._positions, position) - 1]

    def _keep(self, position: int, fold: QueueFold) -> None:
        if position in self._kept or not self._kept_runs_max:
            return
        self._kept[position] = fold.copy()
        bisect.insort(self._positions, position)
        while (held := self.kept_run_count) > self._kept_runs_max:
            large = [at for at in self._positions if len(self._kept[at]) * len(self._kept) >= held]
            for at in large[::2]:
                del self._kept[at]
            self._positions = sorted(self._kept)
