"""WatchRuns: the events of runs after a position, with bookmarks and one caught-up mark."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from runyard.event.v1.envelope_pb2 import Lane
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.scheduler_service_pb2 import WatchRunsResponse
from runyard_contracts.ids import Position, RunId, StreamName, stream_id, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, OutOfRange, ResourceExhausted, Unavailable
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.port import EventFilter, Page
from runyard_eventlog.subscriber import follow
from runyard_scheduler.ledger import Ledger

BOOKMARK_SECONDS = 5.0
"""An idle watcher hears at least this often how far it has come."""
STALL_SECONDS_MAX = 30.0
"""A watcher that takes longer than this for one item is sent away."""
LOOK_SECONDS = 1.0
"""An idle watcher looks this often whether it is time for a bookmark, or to end."""
WATCHERS_MAX = 200
"""Most watchers at once: each reads the log for itself."""
PROJECTS_MAX = 10_000
"""Most runs of which one watcher remembers the project; of others the log is asked again."""
FROM_NOW_ON = -1


@dataclass(frozen=True, slots=True)
class Watched:
    """What a watcher wants to see."""

    after_position: int
    run_id: RunId | None = None
    project: str = ""


class Watches:
    """Serves watchers out of the log. Nothing is kept for a slow one but the page it is at."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        doorbell: Doorbell | None = None,
        *,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> None:
        """Follow the ledger's log."""
        self._ledger = ledger
        self._clock = clock
        self._doorbell = doorbell
        self._bookmark_seconds = bookmark_seconds
        self._watcher_count = 0
        self._ending = False

    def end_all(self) -> None:
        """Send every watcher away, because the scheduler stops."""
        self._ending = True

    async def watch(self, watched: Watched) -> AsyncGenerator[WatchRunsResponse, None]:
        """Give events, bookmarks and one caught-up mark, for ever.

        Raises:
            InvalidInput: a position below -1.
            OutOfRange: a position that the log does not have yet.
            ResourceExhausted: too many watchers, or this one is too slow (WATCHER_TOO_SLOW); metadata
                "position" says from where to watch again.
            Unavailable: the log did not answer.
        """
        head = (await self._ledger.log.head()).domain_position
        after = _checked(watched.after_position, head)
        if self._watcher_count >= WATCHERS_MAX:
            raise ResourceExhausted(
                f"{WATCHERS_MAX} watchers are open; try again later", code="TOO_MANY_WATCHERS"
            )
        self._watcher_count += 1
        try:
            async for response in self._paced(watched, after, head):
                yield response
        finally:
            self._watcher_count -= 1

    async def _paced(
        self, watched: Watched, after: Position, head: Position
    ) -> AsyncIterator[WatchRunsResponse]:
        async for response in self._responses(watched, after, head):
            given_at = self._clock.monotonic_seconds()
            yield response
            if self._clock.monotonic_seconds() - given_at > STALL_SECONDS_MAX:
                position = _position_of(response)
                raise ResourceExhausted(
                    f"this watcher is too slow; watch again from position {position}",
                    code="WATCHER_TOO_SLOW",
                    metadata={"position": str(position)},
                )

    async def _responses(
        self, watched: Watched, after: Position, head: Position
    ) -> AsyncIterator[WatchRunsResponse]:
        projects: dict[str, str] = {}
        caught_up = after >= head
        if caught_up:
            yield WatchRunsResponse(caught_up_position=after)
        marked_at = self._clock.monotonic_seconds()
        async for page in self._pages(watched, after):
            if self._ending:
                raise Unavailable("the scheduler is stopping; watch again from the last position")
            for event in page.events:
                if not watched.project or await self._project_of(event, projects) == watched.project:
                    yield WatchRunsResponse(event=event.envelope)
                    marked_at = self._clock.monotonic_seconds()
            if not caught_up and page.scanned_to >= head:
                caught_up = True
                yield WatchRunsResponse(caught_up_position=page.scanned_to)
            elif self._clock.monotonic_seconds() - marked_at >= self._bookmark_seconds:
                yield WatchRunsResponse(bookmark_position=page.scanned_to)
            else:
                continue
            marked_at = self._clock.monotonic_seconds()

    def _pages(self, watched: Watched, after: Position) -> AsyncIterator[Page]:
        if watched.run_id is None:
            wanted = EventFilter(categories=("run",))
        else:
            wanted = EventFilter(streams=(stream_name("run", watched.run_id),))
        return follow(
            self._ledger.log,
            Lane.LANE_DOMAIN,
            after_position=after,
            filter=wanted,
            doorbell=self._doorbell,
            idle_page_seconds=min(LOOK_SECONDS, self._bookmark_seconds),
        )

    async def _project_of(self, event: RecordedEvent, known: dict[str, str]) -> str:
        stream = event.envelope.stream
        if stream not in known:
            if len(known) >= PROJECTS_MAX:
                # The first one in: most likely it has ended.
                del known[next(iter(known))]
            entry = self._ledger.world.run(stream_id(stream))
            known[stream] = entry.run.project if entry is not None else await self._project_in_log(stream)
        return known[stream]

    async def _project_in_log(self, stream: str) -> str:
        first = await self._ledger.log.read_stream(StreamName(stream), limit=1)
        message = first[0].message
        return message.project if isinstance(message, ev.RunQueued) else ""


def _checked(after_position: int, head: Position) -> Position:
    if after_position < FROM_NOW_ON:
        raise InvalidInput(
            f"after_position is {after_position}, want {FROM_NOW_ON} or more",
            field_violations={"after_position": "below -1"},
        )
    if after_position > head:
        raise OutOfRange(
            f"the log ends at position {head}, before {after_position}",
            code="POSITION_AHEAD",
            metadata={"head": str(head)},
        )
    return head if after_position == FROM_NOW_ON else Position(after_position)


def _position_of(response: WatchRunsResponse) -> int:
    if response.WhichOneof("item") == "event":
        return response.event.position
    return response.bookmark_position or response.caught_up_position
