"""The queue's fold of some runs only, out of the log's index of streams."""

from __future__ import annotations

from collections.abc import Sequence

from runyard_contracts.ids import StreamName
from runyard_eventlog.stream_index import STREAMS_EACH, StreamIndex
from runyard_replay.folding.queue import EVENT_TYPES, QueueFold
from runyard_replay.views import readable


async def fold_runs(index: StreamIndex, streams: Sequence[StreamName], to: int) -> QueueFold:
    """Fold the runs of these streams up to a position; the order of runs among each other does not matter.

    Raises:
        Unavailable: the log did not answer in time.
    """
    fold = QueueFold()
    for start in range(0, len(streams), STREAMS_EACH):
        for event in await index.events_of(streams[start : start + STREAMS_EACH], EVENT_TYPES, to):
            if readable(event) is None:
                fold.pass_over(event)
            else:
                fold.apply(event)
    return fold
