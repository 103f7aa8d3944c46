"""The event log as one process sees it: late, away for a while, silent after having appended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import CommandId, EventId, Position, StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Conflict, Unavailable
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import (
    EVERYTHING,
    READ_LIMIT_MAX,
    AppendCommand,
    Appended,
    EventFilter,
    LogHead,
    Page,
)
from tests.sim.universe import Universe

Observer = Callable[[AppendCommand, Appended], None]


@dataclass(slots=True)
class LogWeather:
    """How well the log does, for everybody."""

    is_away: bool = False
    fails_often: float = 0.0
    """Part of the calls that fail."""
    latency_seconds_max: float = 0.01
    doorbells: list[Doorbell] = field(default_factory=list)


class UnreliableLog:
    """Fills the ``EventLog`` port for one process over the one log of the yard."""

    def __init__(
        self,
        memory: MemoryEventLog,
        weather: LogWeather,
        universe: Universe,
        observe: Observer,
        crash: Callable[[], None] = lambda: None,
    ) -> None:
        """``crash`` ends the process that holds this log."""
        self._memory = memory
        self._weather = weather
        self._universe = universe
        self._observe = observe
        self._crash = crash

    async def append(self, command: AppendCommand) -> Appended:
        await self._reach()
        try:
            appended = await self._memory.append(command)
        except Conflict:
            self._universe.sometimes("append refused by a conflict")
            raise
        if appended.repeated:
            self._universe.sometimes("append repeated, first answer given")
        else:
            self._observe(command, appended)
            self._ring()
        if self._universe.likely(0.002):
            self._universe.sometimes("process killed between append and answer")
            self._crash()
        await self._delay()
        if self._universe.likely(self._weather.fails_often / 2):
            self._universe.sometimes("log silent after having appended")
            raise Unavailable("the log did not answer in time (it has appended)")
        return appended

    async def find_command(self, command_id: CommandId, request_digest: bytes = b"") -> Appended | None:
        await self._reach()
        found = await self._memory.find_command(command_id, request_digest)
        if found is not None:
            self._universe.sometimes("request repeated, first answer given")
        return found

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after_version: int = 0,
        to_position: Position | None = None,
        limit: int = READ_LIMIT_MAX,
    ) -> list[RecordedEvent]:
        await self._reach()
        return await self._memory.read_stream(
            stream, after_version=after_version, to_position=to_position, limit=limit
        )

    async def read(
        self,
        lane: Lane.ValueType,
        *,
        after_position: Position = Position(0),
        to_position: Position | None = None,
        filter: EventFilter = EVERYTHING,  # noqa: A002 - the port's word
        limit: int = 1_000,
        descending: bool = False,
    ) -> Page:
        await self._reach()
        page = await self._memory.read(
            lane,
            after_position=after_position,
            to_position=to_position,
            filter=filter,
            limit=limit,
            descending=descending,
        )
        await self._delay()
        return page

    async def head(self) -> LogHead:
        await self._reach()
        return await self._memory.head()

    async def position_at(self, time: datetime) -> Position:
        await self._reach()
        return await self._memory.position_at(time)

    async def find(self, event_id: EventId) -> RecordedEvent | None:
        await self._reach()
        return await self._memory.find(event_id)

    async def _reach(self) -> None:
        await self._delay()
        if self._weather.is_away:
            await asyncio.sleep(self._universe.between(0.05, 3.0))
            raise Unavailable("the log does not answer")
        if self._universe.likely(self._weather.fails_often):
            raise Unavailable("the log did not answer in time")

    async def _delay(self) -> None:
        # Often nothing, so that calls overtake each other.
        if self._universe.chance.random() < 0.7:
            await asyncio.sleep(self._universe.between(0, self._weather.latency_seconds_max))

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        for doorbell in self._weather.doorbells:
            if self._universe.chance.random() < 0.9:
                loop.call_later(self._universe.between(0, 0.05), doorbell.ring)
