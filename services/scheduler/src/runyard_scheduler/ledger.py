"""Between decisions and the log: appends what was decided and keeps the world up to date with the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.ids import CommandId, Position, StreamName, stream_id, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Conflict, NotFound
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.handler import load, load_appended
from runyard_eventlog.port import AppendCommand, Appended, EventFilter, EventLog, StreamAppend
from runyard_eventlog.subscriber import follow
from runyard_scheduler.changes import Change
from runyard_scheduler.process.world import RunEntry, World

TRIES_MAX = 8
"""How often a command is decided anew after a conflict."""

_CATEGORIES = EventFilter(categories=("run", "node", "project"))
_ENDS = EventFilter(types=("runyard.run.finished",))

log = structlog.get_logger("runyard.scheduler.ledger")

Decide = Callable[[], Awaitable[Sequence[Change]]]


@dataclass(frozen=True, slots=True)
class Committed:
    """A command that the log has."""

    position: Position
    """Position of its last event."""
    events: tuple[RecordedEvent, ...]
    """Its events in order; of a repeated command those of the first time."""


class Ledger:
    """The log and the world that follows it. Everything that this process appends goes through here."""

    def __init__(self, event_log: EventLog, world: World, doorbell: Doorbell | None = None) -> None:
        """Keep this world up to date from this log."""
        self.log = event_log
        self.world = world
        self._doorbell = doorbell
        self._listeners: list[Callable[[], None]] = []
        self._appended_position = Position(0)

    @property
    def known_position(self) -> Position:
        """The newest position that anybody may have heard of from this process."""
        return max(self.world.position, self._appended_position)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call a function, which must return at once, whenever the world may have changed."""
        self._listeners.append(listener)

    async def run(self, run_id: str) -> RunEntry:
        """Give a run: from the world while it is live, from the log after that.

        Raises:
            NotFound: there is no such run (RUN_NOT_FOUND).
            Unavailable: the log did not answer.
        """
        entry = self.world.run(run_id)
        return entry if entry is not None else await self.run_in_log(run_id)

    async def run_in_log(self, run_id: str) -> RunEntry:
        """Give a run as the log has it, whatever the world knows.

        Raises:
            NotFound: there is no such run (RUN_NOT_FOUND).
            Unavailable: the log did not answer.
        """
        entry = RunEntry()
        for event in await self.history(run_id):
            entry = entry.after(event)
        return entry

    async def history(self, run_id: str) -> list[RecordedEvent]:
        """Give the events of a run.

        Raises:
            NotFound: there is no such run (RUN_NOT_FOUND).
            Unavailable: the log did not answer.
        """
        try:
            events = await load(self.log, stream_name("run", run_id))
        except ValueError:
            events = []
        if not events:
            raise NotFound(f"there is no run {run_id!r}", code="RUN_NOT_FOUND")
        return events

    async def transact(
        self, command_id: CommandId, decide: Decide, request_digest: bytes = b""
    ) -> Committed | None:
        """Decide on the world and append; when somebody was faster, look again and decide again.

        A repeated command gives what it came to the first time; None means that it was so already.

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
                return self._apply(changes, appended)
            # Its first time may have made other events than this one would have.
            return await self.committed(command_id, request_digest)
        raise AssertionError("unreachable")

    async def committed(self, command_id: CommandId, request_digest: bytes) -> Committed | None:
        """Give what a command came to, or None when the log does not know it.

        Raises:
            IdReused: the command came before with another request.
            Unavailable: the log did not answer.
        """
        appended = await self.log.find_command(command_id, request_digest)
        return None if appended is None else await self._first_time(appended)

    async def catch_up(self) -> None:
        """Follow the log to its present head; runs that begin and end on the way are left out.

        After an upgrade the way is the whole log, and agents wait for whoever goes it.

        Raises:
            Unavailable: the log did not answer.
        """
        head = (await self.log.head()).domain_position
        ended = await self._ended_streams(head)
        while self.world.position < head:
            page = await self.log.read(
                Lane.LANE_DOMAIN, after_position=self.world.position, to_position=head, filter=_CATEGORIES
            )
            events = (event for event in page.events if self._may_matter(event, ended))
            self.world.follow(events, page.scanned_to)

    async def _ended_streams(self, head: Position) -> set[str]:
        streams: set[str] = set()
        position = self.world.position
        while position < head:
            page = await self.log.read(
                Lane.LANE_DOMAIN, after_position=position, to_position=head, filter=_ENDS
            )
            streams.update(event.envelope.stream for event in page.events)
            position = page.scanned_to
        return streams

    def _may_matter(self, event: RecordedEvent, ended: Collection[str]) -> bool:
        stream = event.envelope.stream
        return stream not in ended or self.world.run(stream_id(stream)) is not None

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

    async def _first_time(self, appended: Appended) -> Committed:
        events = await load_appended(self.log, Lane.LANE_DOMAIN, appended)
        return Committed(appended.position, tuple(events))

    def _apply(self, changes: Sequence[Change], appended: Appended) -> Committed:
        positions = iter(appended.positions)
        events = tuple(
            _recorded(envelope, version, next(positions))
            for made in changes
            for version, envelope in enumerate(made.events, start=made.expected_version + 1)
        )
        for event in events:
            self.world.apply(event)
        self._appended_position = max(self._appended_position, appended.position)
        self._tell()
        return Committed(appended.position, events)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _recorded(envelope: Envelope, version: int, position: Position) -> RecordedEvent:
    envelope.stream_version = version
    envelope.position = position
    return RecordedEvent(envelope)
