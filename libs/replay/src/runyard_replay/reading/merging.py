"""Several ordered streams of events as one, in the order of timelines, each event once."""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing

from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.order import Place, place_of

EventSource = AsyncGenerator[RecordedEvent, None]
"""Events in the order of timelines; closed by whoever merges it."""


async def in_order(sources: Sequence[EventSource]) -> EventSource:
    """Merge sources that are each in order; holds one event of each, and the page that it came in."""
    async with AsyncExitStack() as opened:
        iterators = [aiter(await opened.enter_async_context(aclosing(source))) for source in sources]
        waiting: list[tuple[Place, int, RecordedEvent]] = []
        for index, iterator in enumerate(iterators):
            await _refill(waiting, index, iterator)
        last: Place | None = None
        while waiting:
            place, index, event = heapq.heappop(waiting)
            if place != last:
                yield event
            last = place
            await _refill(waiting, index, iterators[index])


async def known(events: Iterable[RecordedEvent]) -> EventSource:
    """Give events that were read already as a source."""
    for event in sorted(events, key=lambda event: place_of(event.envelope)):
        yield event


async def _refill(
    waiting: list[tuple[Place, int, RecordedEvent]], index: int, iterator: AsyncIterator[RecordedEvent]
) -> None:
    event = await anext(iterator, None)
    if event is not None:
        heapq.heappush(waiting, (place_of(event.envelope), index, event))
