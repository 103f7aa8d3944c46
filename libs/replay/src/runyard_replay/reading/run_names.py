"""Which run an event is about, and what people call it."""

from __future__ import annotations

from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.ids import stream_category, stream_id, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.port import EventLog
from runyard_replay.views import readable


class RunNames:
    """Finds names of runs by the first event of each; remembers them."""

    def __init__(self, event_log: EventLog) -> None:
        """Look runs up in this log."""
        self._log = event_log
        self._known: dict[str, str] = {}

    async def of(self, event: RecordedEvent) -> str:
        """Name the run that an event is about: "digits#12"; nothing when it is about none, or about several.

        Raises:
            Unavailable: the log did not answer in time.
        """
        run_id = run_id_of(event)
        if not run_id:
            return ""
        if run_id not in self._known:
            self._known[run_id] = await self._name(run_id)
        return self._known[run_id]

    async def _name(self, run_id: str) -> str:
        for event in await self._log.read_stream(stream_name("run", run_id), limit=1):
            queued = readable(event)
            if isinstance(queued, RunQueued):
                return f"{queued.project}#{queued.number}"
        return ""


def run_id_of(event: RecordedEvent) -> str:
    """Give the id of the run that an event is about."""
    if stream_category(event.envelope.stream) == "run":
        return stream_id(event.envelope.stream)
    message = readable(event)
    for holder in (message, getattr(message, "attempt", None), getattr(message, "origin", None)):
        run_id = getattr(holder, "run_id", "")
        if run_id:
            return str(run_id)
    return ""
