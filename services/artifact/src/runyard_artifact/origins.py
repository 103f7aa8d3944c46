"""What the writing of a file follows from: the announcement of its upload, or the attempt that wrote it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from runyard.artifact.v1.events_pb2 import ArtifactUploadBegun
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Lane
from runyard.run.v1.events_pb2 import RunStarted
from runyard_contracts.ids import stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.port import EventFilter, EventLog, Page
from runyard_replay.folding.files import origin_key

ATTEMPTS_REMEMBERED = 1_000


class Origins:
    """Finds the events that files come from; what it found stays true, so it remembers the latest."""

    def __init__(self, event_log: EventLog) -> None:
        """Look into this log."""
        self._log = event_log
        self._started: OrderedDict[tuple[str, int], str] = OrderedDict()

    async def cause_of_upload(self, origin: Origin) -> str:
        """Give the run.started of the attempt that a file comes from; empty when it comes from no attempt.

        Raises:
            Unavailable: the log did not answer in time.
        """
        attempt = (origin.run_id, origin.attempt)
        if not origin.run_id or attempt in self._started:
            return self._started.get(attempt, "")
        wanted = EventFilter(streams=(stream_name("run", origin.run_id),), types=("runyard.run.started",))
        page = Page(is_full=True)
        while page.is_full:
            page = await self._log.read(Lane.LANE_DOMAIN, after_position=page.scanned_to, filter=wanted)
            for event in page.events:
                if isinstance(event.message, RunStarted) and event.message.attempt == origin.attempt:
                    self._remember(attempt, event.envelope.event_id)
        return self._started.get(attempt, "")

    async def cause_of_writing(self, origin: Origin, history: Iterable[RecordedEvent]) -> str:
        """Give the announcement of this very upload in a file's history, else what an upload follows from.

        Raises:
            Unavailable: the log did not answer in time.
        """
        for event in history:
            begun = event.message
            if isinstance(begun, ArtifactUploadBegun) and origin_key(begun.origin) == origin_key(origin):
                return event.envelope.event_id
        return await self.cause_of_upload(origin)

    def _remember(self, attempt: tuple[str, int], event_id: str) -> None:
        self._started[attempt] = event_id
        if len(self._started) > ATTEMPTS_REMEMBERED:
            self._started.popitem(last=False)
