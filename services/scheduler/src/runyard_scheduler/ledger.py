"""Between decisions and the log: appends what was decided and keeps the world up to date with the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.ids import CommandId, Position, StreamName, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Conflict, NotFound
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.handler import load
from runyard_eventlog.port import AppendCommand, Appended, EventFilter, EventLog, StreamAppend
from runyard_eventlog.subscriber import follow
from runyard_scheduler.changes import Change
from runyard_scheduler.process.world import RunEntry, World

TRIES_MAX = 8
"""How often a command is decided anew after a conflict."""

_CATEGORIES = EventFilter(categories=("run", "node", "project"))

log = structlog.get_logger("runyard.scheduler.ledger")

Decide = Callable[[], Awaitable[Sequence[Change]]]


class Ledger:
    """The log and the world that follows it. Everything that this process appends goes through here."""

    def __init__(self, event_log: EventLog, world: World, doorbell: Doorbell | None = None) -> None:
        """Keep this world up to date from this log."""
        self.log = event_log
        self.world = world
        self._doorbell = doorbell
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call a function, which must return at once, whenever the world may have changed."""
        self._listeners.append(listener)

    async def run(self, run_id: str) -> RunEntry:
        """Give a run: from the world while it is live, from the log after that.

        Raises:
            NotFound: there is no such run (UNKNOWN_RUN).
            Unavailable: the log did not answer.
        """
        entry = self.world.run(run_id)
        return entry if entry is not None else await self.run_in_log(run_id)

    async def run_in_log(self, run_id: str) -> RunEntry:
        """Give a run as the log has it, whatever the world knows.

        Raises:
            NotFound: there is no such run (UNKNOWN_RUN).
            Unavailable: the log did not answer.
        """
        entry = RunEntry()
        for event in await self.history(run_id):
            entry = entry.after(event)
        return entry

    async def history(self, run_id: str) -> list[RecordedEvent]:
        """Give the events of a run.

        Raises:
            NotFound: there is no such run (UNKNOWN_RUN).
            Unavailable: the log did not answer.
        """
        try:
            events = await load(self.log, stream_name("run", run_id))
        except ValueError:
            events = []
        if not events:
            raise NotFound(f"there is no run {run_id!r}", code="UNKNOWN_RUN")
        return events

    async def transact(
        self, command_id: CommandId, decide: Decide, request_digest: bytes = b""
    ) -> Appended | None:
        """Decide on the world and append; when somebody was faster, look again and decide again.

        Gives None when the decision was that it is so already.

        Raises:
            Conflict: the streams kept changing.
            IdReused: the command came before with another request.
            Unavailable: the log did not answer; the same command may be tried again.
        """
        for tries_left in reversed(range(TRIES_MAX)):
            changes = await decide()
            if not changes:
                return None
            appends = [StreamAppend(made.stream, made.expected_version, made.events) for made in changes]
            try:
                appended = await self.log.append(AppendCommand(command_id, appends, request_digest))
            except Conflict as conflict:
                if not tries_left:
                    raise
                await self._refresh(StreamName(conflict.metadata["stream"]))
                continue
            if not appended.repeated:
                self._apply(changes, appended)
            return appended
        raise AssertionError("unreachable")

    async def catch_up(self) -> None:
        """Follow the log to its present head.

        Raises:
            Unavailable: the log did not answer.
        """
        head = (await self.log.head()).domain_position
        while self.world.position < head:
            page = await self.log.read(
                Lane.LANE_DOMAIN, after_position=self.world.position, filter=_CATEGORIES
            )
            self.world.follow(page.events, page.scanned_to)

    async def keep_following(self) -> None:
        """Follow the log for ever."""
        pages = follow(
            self.log,
            Lane.LANE_DOMAIN,
            after_position=self.world.position,
            filter=_CATEGORIES,
            doorbell=self._doorbell,
        )
        async for page in pages:
            self.world.follow(page.events, page.scanned_to)
            if page.events:
                self._tell()

    async def _refresh(self, stream: StreamName) -> None:
        for event in await load(self.log, stream):
            self.world.apply(event)
        # Whoever was faster may be about to apply its own events.
        await asyncio.sleep(0)

    def _apply(self, changes: Sequence[Change], appended: Appended) -> None:
        positions = iter(appended.positions)
        for made in changes:
            for version, envelope in enumerate(made.events, start=made.expected_version + 1):
                self.world.apply(_recorded(envelope, version, next(positions)))
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _recorded(envelope: Envelope, version: int, position: Position) -> RecordedEvent:
    envelope.stream_version = version
    envelope.position = position
    return RecordedEvent(envelope)
