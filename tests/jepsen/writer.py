"""A child process that appends to both lanes until it is told to stop: ``python -m tests.jepsen.writer``.

Its arguments are one JSON object. It writes down what it is about to send before it sends it, so that what it
was killed over counts as unanswered.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.ids import StreamName
from runyard_core.errors import Conflict, IdReused, Unavailable
from runyard_eventlog.port import AppendCommand, Appended, EventLog, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from tests.contract.events import chunk, command, detail
from tests.jepsen.history import Acknowledged, Event, Forged, HistoryFile, Invoked, Refused, now_ns
from tests.jepsen.process_arguments import WriterArguments, arguments_of

CALLERS = 4
"""Tasks that append to the domain lane; one more appends telemetry."""
SHARED_STREAMS: Sequence[StreamName] = tuple(StreamName(f"run-shared-{number}") for number in range(4))
"""What all writers of the yard append to, and so are refused now and then."""
_ATTEMPTS_MAX = 40


class EventMaker:
    """Makes an event of a lane that says a text."""

    def __init__(self, lane: Lane.ValueType) -> None:
        self._lane = lane

    def __call__(self, stream: StreamName, text: str) -> Envelope:
        return detail(stream, text) if self._lane == Lane.LANE_DOMAIN else chunk(stream, text)


@dataclass(slots=True)
class Caller:
    """One task's work: a random command after the other, each written down."""

    log: EventLog
    history: HistoryFile
    dice: random.Random
    versions: dict[StreamName, int] = field(default_factory=dict)
    """Last version known of each stream; another writer may have moved it on."""
    acknowledged: list[AppendCommand] = field(default_factory=list)
    count: int = 0

    async def call(self, streams: Sequence[StreamName], make: EventMaker) -> None:
        """Append one or two events to each of the streams, or say again what was said."""
        choice = self.dice.random()
        if self.acknowledged and choice < 0.1:
            await self._send(self.dice.choice(self.acknowledged))
        elif self.acknowledged and choice < 0.2:
            await self._forge(self.dice.choice(self.acknowledged), make)
        else:
            await self._send(
                self._command(
                    [
                        StreamAppend(stream, self.versions.get(stream, 0), self._events(stream, make))
                        for stream in streams
                    ]
                )
            )

    def _events(self, stream: StreamName, make: EventMaker) -> list[Envelope]:
        self.count += 1
        texts = [f"{self.count}.{number}" for number in range(self.dice.randint(1, 2))]
        events = [make(stream, text) for text in texts]
        for event in events:
            event.event_id = self._uuid()
        return events

    def _command(self, appends: Sequence[StreamAppend]) -> AppendCommand:
        return command(*appends, command_id=self._uuid())

    def _uuid(self) -> str:
        return str(UUID(int=self.dice.getrandbits(128), version=4))

    async def _send(self, asked: AppendCommand) -> None:
        """Send a command until there is an answer, or sometimes only until the first failure."""
        for _ in range(_ATTEMPTS_MAX):
            lane = asked.appends[0].events[0].lane
            self.history.write(Invoked(asked.command_id, lane, told(asked), now_ns()))
            try:
                answer = await self.log.append(asked)
            except Conflict as error:
                self.history.write(Refused(asked.command_id, error.code))
                self.versions[StreamName(error.metadata["stream"])] = int(error.metadata["actual"])
                return
            except Unavailable:
                if self.dice.random() < 0.3:
                    return
                continue
            self._took(asked, answer)
            return

    def _took(self, asked: AppendCommand, answer: Appended) -> None:
        self.history.write(Acknowledged(asked.command_id, answer.positions, now_ns()))
        for append in asked.appends:
            version = append.expected_version + len(append.events)
            self.versions[append.stream] = max(version, self.versions.get(append.stream, 0))
        self.acknowledged.append(asked)

    async def _forge(self, known: AppendCommand, make: EventMaker) -> None:
        stream = known.appends[0].stream
        events = self._events(stream, make)
        other = command(StreamAppend(stream, self.versions[stream], events), command_id=known.command_id)
        self.history.write(Forged(known.command_id, told(other), was_refused=False))
        try:
            answer = await self.log.append(other)
        except IdReused:
            self.history.write(Forged(known.command_id, told(other), was_refused=True))
        except Unavailable:
            return
        else:
            self.history.write(Acknowledged(known.command_id, answer.positions, now_ns()))


def told(asked: AppendCommand) -> tuple[Event, ...]:
    """Write a command's events as the history does."""
    return tuple(
        Event(event.event_id, append.stream, text_of(event))
        for append in asked.appends
        for event in append.events
    )


def text_of(event: Envelope) -> str:
    """What an event says: all of its bytes, as the producer gave them."""
    return event.data.hex()


async def connected(url: str) -> PostgresEventLog:
    """Connect as often as needed: the database may be dead just now."""
    while True:
        try:
            return await PostgresEventLog.connect(url)
        except Unavailable:
            await asyncio.sleep(0.05)


async def write_until_stopped(arguments: WriterArguments) -> None:
    """Append until SIGTERM; what is under way then is finished first."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    history = HistoryFile(Path(arguments.history))
    dice = random.Random(arguments.seed)
    async with (
        await connected(arguments.scheduler_url) as domain,
        await connected(arguments.metrics_url) as telemetry,
        asyncio.TaskGroup() as group,
    ):
        spool = StreamName(f"telemetry-node-1.{dice.getrandbits(64):x}")
        for number in range(CALLERS + 1):
            is_domain = number < CALLERS
            caller = Caller(domain if is_domain else telemetry, history, random.Random(dice.random()))
            own = StreamName(f"run-{dice.getrandbits(64):x}") if is_domain else spool
            group.create_task(_call_until(stop, caller, own, is_domain=is_domain))
    history.close()


async def _call_until(stop: asyncio.Event, caller: Caller, own: StreamName, *, is_domain: bool) -> None:
    make = EventMaker(Lane.LANE_DOMAIN if is_domain else Lane.LANE_TELEMETRY)
    while not stop.is_set():
        streams = [own]
        if is_domain and caller.dice.random() < 0.5:
            streams += caller.dice.sample(SHARED_STREAMS, caller.dice.randint(1, 2))
        await caller.call(streams, make)
        # Not as fast as it can: the history is read line by line in the end.
        await asyncio.sleep(caller.dice.random() * 0.02)


if __name__ == "__main__":
    asyncio.run(write_until_stopped(arguments_of(WriterArguments, sys.argv[1])))
