"""Any sequence of appends, repetitions, forgeries, reads, crashes: every log does what the model does.

RUNYARD_HYPOTHESIS_PROFILE=thorough looks longer; the seed is in pytest's header.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import hypothesis
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.ids import CommandId, EventId, Position, StreamName, uuid7
from runyard_core.errors import RunyardError, Unavailable
from runyard_eventlog.port import (
    EVERYTHING,
    AppendCommand,
    Appended,
    EventFilter,
    EventLog,
    Page,
    StreamAppend,
)
from runyard_eventlog.subscriber import follow
from runyard_testkit import Database
from tests.contract.events import chunk, command, detail
from tests.contract.log_model import LogModel, Placed, Refusal
from tests.contract.log_yards import DOMAIN, SECONDS_MAX, TELEMETRY, MemoryYard, PostgresYard, Yard

STREAM_COUNT = 3
SERVER_CRASHES_MAX = 1
"""In one example: a recovery takes a quarter of a second."""

# A thorough search takes minutes; the small one seconds.
pytestmark = [pytest.mark.system, pytest.mark.timeout(1_800)]

Result = TypeVar("Result")


@dataclass(slots=True)
class Watcher:
    """Somebody who follows a lane."""

    lane: Lane.ValueType
    wanted: EventFilter
    position: int
    pages: AsyncGenerator[Page, None]


class LogMachine(RuleBasedStateMachine):
    """Does to a log and to its model the same, and compares."""

    commands: Bundle[AppendCommand] = Bundle("commands")
    watchers: Bundle[Watcher] = Bundle("watchers")

    def __init__(self, yard: Yard, runner: asyncio.Runner) -> None:
        super().__init__()
        self.yard = yard
        self.runner = runner
        self.crashes = 0
        self.open_watchers: list[Watcher] = []
        name = uuid7()
        self.streams = {
            DOMAIN: [StreamName(f"run-{name}.{number}") for number in range(STREAM_COUNT)],
            TELEMETRY: [StreamName(f"telemetry-{name}.{number}") for number in range(STREAM_COUNT)],
        }
        self.run(yard.open())
        head = self.run(yard.log(DOMAIN).head())
        self.model = LogModel.beginning_at(head.domain_position, head.telemetry_position)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        async def in_time() -> Result:
            async with asyncio.timeout(SECONDS_MAX):
                return await work

        return self.runner.run(in_time())

    def new_command(
        self, lane: Lane.ValueType, parts: list[tuple[int, int, int]], digest: bytes = b""
    ) -> AppendCommand:
        """Make a command of (stream, how far its expectation is off, how many events)."""
        appends = []
        for index, off, count in parts:
            stream = self.streams[lane][index]
            make = detail if lane == DOMAIN else chunk
            expected = max(0, self.model.versions.get(stream, 0) + off)
            appends.append(StreamAppend(stream, expected, [make(stream, uuid7()) for _ in range(count)]))
        return command(*appends, digest=digest)

    def append(self, asked: AppendCommand) -> None:
        """Append to the log and to the model; both answer alike."""
        is_known = asked.command_id in self.model.commands
        answer = self.run(_answer(self.yard.log(asked.appends[0].events[0].lane), asked))
        told = answer if isinstance(answer, Refusal) else answer.positions
        assert told == self.model.append(asked)
        if isinstance(answer, Appended):
            assert answer.position == answer.positions[-1]
            assert answer.repeated or not is_known

    @rule(
        target=commands,
        lane=st.sampled_from([DOMAIN, TELEMETRY]),
        parts=st.lists(
            st.tuples(
                st.integers(0, STREAM_COUNT - 1), st.sampled_from([0, 0, 0, 0, -1, 1]), st.integers(1, 3)
            ),
            min_size=1, max_size=STREAM_COUNT, unique_by=lambda part: part[0],
        ),
        digest=st.sampled_from([b"", b"\x07" * 32]),
    )  # fmt: skip
    def append_to_streams(
        self, lane: Lane.ValueType, parts: list[tuple[int, int, int]], digest: bytes
    ) -> AppendCommand:
        """One or several streams; sometimes the writer has old or impossible knowledge."""
        asked = self.new_command(lane, parts, digest)
        self.append(asked)
        return asked

    @rule(asked=commands)
    def send_again(self, asked: AppendCommand) -> None:
        self.append(asked)

    @rule(asked=commands)
    def send_again_decided_anew(self, asked: AppendCommand) -> None:
        """Other events: the same request when it has a digest, a reused id when it has none."""
        lane = asked.appends[0].events[0].lane
        other = self.new_command(lane, [(0, 0, 1)], asked.request_digest)
        self.append(replace(other, command_id=asked.command_id))

    @rule(asked=commands)
    def send_its_events_under_another_command(self, asked: AppendCommand) -> None:
        self.append(replace(asked, command_id=CommandId(uuid7()), request_digest=b""))

    @rule(asked=commands)
    def send_an_event_with_other_content(self, asked: AppendCommand) -> None:
        first = asked.appends[0]
        event = Envelope()
        event.CopyFrom(first.events[0])
        event.correlation_id = uuid7()
        self.append(command(StreamAppend(first.stream, first.expected_version, [event])))

    @rule(asked=commands)
    def send_its_events_and_one_more(self, asked: AppendCommand) -> None:
        first = asked.appends[0]
        (more,) = self.new_command(first.events[0].lane, [(0, 0, 1)]).appends[0].events
        more.stream = first.stream
        self.append(command(replace(first, events=[*first.events, more])))

    @rule(lane=st.sampled_from([DOMAIN, TELEMETRY]))
    def append_to_a_foreign_category(self, lane: Lane.ValueType) -> None:
        asked = self.new_command(lane, [(0, 0, 1)])
        foreign = self.yard.log(TELEMETRY if lane == DOMAIN else DOMAIN)
        assert self.run(_answer(foreign, asked)) == Refusal("NOT_YOUR_CATEGORY")

    @rule(
        target=commands,
        lane=st.sampled_from([DOMAIN, TELEMETRY]),
        turns=st.integers(0, 6),
        is_killed=st.booleans(),
    )
    def die_while_appending(self, lane: Lane.ValueType, turns: int, is_killed: bool) -> AppendCommand:
        """The caller or its process goes away; sending the command again tells what became of it."""
        asked = self.new_command(lane, [(0, 0, 2), (1, 0, 1)])

        async def die() -> None:
            appending = asyncio.ensure_future(self.yard.log(lane).append(asked))
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns > 3:
                # As far as the socket: the server may or may not have heard of it.
                await asyncio.sleep(0.001 * turns)
            if is_killed:
                await self._stop_watching()
                await self.yard.kill_client()
            appending.cancel()
            await asyncio.gather(appending, return_exceptions=True)
            if is_killed:
                await self.yard.open()

        self.run(die())
        self.append(asked)
        return asked

    @rule()
    def reconnect(self) -> None:
        async def again() -> None:
            await self._stop_watching()
            await self.yard.close()
            await self.yard.open()

        self.run(again())

    @precondition(lambda self: self.yard.can_crash and self.crashes < SERVER_CRASHES_MAX)
    @rule(asked=consumes(commands))
    def crash_the_server(self, asked: AppendCommand) -> None:
        """Everything acknowledged is still there; watchers and callers find the server again."""
        self.crashes += 1
        self.run(self.yard.crash_server())
        self.append(asked)

    @rule(
        target=watchers,
        lane=st.sampled_from([DOMAIN, TELEMETRY]),
        back=st.integers(0, 10),
        stream=st.one_of(st.none(), st.integers(0, STREAM_COUNT - 1)),
        page_size=st.integers(1, 5),
    )
    def watch(self, lane: Lane.ValueType, back: int, stream: int | None, page_size: int) -> Watcher:
        """Follow from somewhere, everything or one stream."""
        wanted = EVERYTHING if stream is None else EventFilter(streams=[self.streams[lane][stream]])
        position = max(self.model.base[lane], self.model.head(lane) - back)
        return self._watcher(lane, wanted, position, page_size)

    @rule(watcher=watchers)
    def see(self, watcher: Watcher) -> None:
        """A watcher gets exactly what comes next for it."""
        if watcher not in self.open_watchers:
            # Its client went away; it goes on from where it was.
            again = self._watcher(watcher.lane, watcher.wanted, watcher.position, 3)
            watcher.pages = again.pages
            self.open_watchers[-1] = watcher
        if watcher.position == self.model.head(watcher.lane):
            return
        page = self.run(anext(watcher.pages))
        between = self.model.after(watcher.lane, watcher.position)[: page.scanned_to - watcher.position]
        self._compare(page, [placed for placed in between if _is_wanted(placed, watcher.wanted)])
        assert page.scanned_to > watcher.position
        watcher.position = page.scanned_to

    @rule(
        lane=st.sampled_from([DOMAIN, TELEMETRY]),
        index=st.integers(0, STREAM_COUNT - 1),
        after=st.integers(0, 4),
    )
    def read_a_stream(self, lane: Lane.ValueType, index: int, after: int) -> None:
        stream = self.streams[lane][index]
        found = self.run(self.yard.log(DOMAIN).read_stream(stream, after_version=after))
        wanted = [placed for placed in self.model.lanes[lane] if placed.event.stream == stream][after:]
        self._compare(Page(found), wanted)

    @rule(lane=st.sampled_from([DOMAIN, TELEMETRY]), back=st.integers(1, 8), limit=st.integers(1, 8))
    def read_backwards(self, lane: Lane.ValueType, back: int, limit: int) -> None:
        wanted = self.model.lanes[lane][-back:][::-1][:limit]
        after = max(self.model.base[lane], self.model.head(lane) - back)
        log = self.yard.log(TELEMETRY)
        page = self.run(log.read(lane, after_position=Position(after), limit=limit, descending=True))
        self._compare(page, wanted)

    @rule(asked=commands)
    def ask_for_a_command_and_its_event(self, asked: AppendCommand) -> None:
        log = self.yard.log(DOMAIN)
        found = self.run(log.find_command(asked.command_id))
        known = self.model.commands.get(asked.command_id)
        assert (found.positions if found else None) == (known[1] if known else None)
        event_id = asked.appends[0].events[0].event_id
        event = self.run(log.find(EventId(event_id)))
        placed = self.model.events.get(event_id)
        self._compare(Page([event] if event else []), [placed] if placed else [])

    def teardown(self) -> None:
        """In the end the whole log is what the model says."""
        try:
            head = self.run(self.yard.log(DOMAIN).head())
            for lane in (DOMAIN, TELEMETRY):
                assert head.of(lane) == self.model.head(lane)
                after = Position(self.model.base[lane])
                page = self.run(self.yard.log(lane).read(lane, after_position=after, limit=10_000))
                self._compare(page, self.model.lanes[lane])
        finally:
            self.run(self._stop_watching())
            self.run(self.yard.close())

    def _watcher(self, lane: Lane.ValueType, wanted: EventFilter, position: int, page_size: int) -> Watcher:
        pages = follow(
            self.yard.log(DOMAIN), lane, after_position=Position(position), filter=wanted, page_size=page_size
        )
        watcher = Watcher(lane, wanted, position, pages)
        self.open_watchers.append(watcher)
        return watcher

    async def _stop_watching(self) -> None:
        for watcher in self.open_watchers:
            await watcher.pages.aclose()
        self.open_watchers.clear()

    def _compare(self, page: Page, wanted: list[Placed]) -> None:
        found = []
        for event in page.events:
            said = Envelope()
            said.CopyFrom(event.envelope)
            for given in ("stream_version", "command_id", "position", "after_position", "recorded_at"):
                said.ClearField(given)
            found.append(Placed(event.position, event.envelope.stream_version, said))
        assert found == wanted


async def _answer(log: EventLog, asked: AppendCommand) -> Appended | Refusal:
    """Send until there is an answer, as a client does whose server may have died."""
    while True:
        try:
            return await log.append(asked)
        except Unavailable:
            await asyncio.sleep(0.02)
        except RunyardError as error:
            return Refusal(error.code)


def _is_wanted(placed: Placed, wanted: EventFilter) -> bool:
    return not wanted.streams or placed.event.stream in wanted.streams


def _check(new_yard: Callable[[], Yard], share: float) -> None:
    """Run the machine; in a loop of its own, because Hypothesis is not asynchronous."""
    usual = hypothesis.settings.default
    assert usual is not None
    settings = hypothesis.settings(
        max_examples=max(1, int(usual.max_examples * share)),
        stateful_step_count=30,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    with asyncio.Runner() as runner:
        # It wants whatever makes a machine, and says that it wants a class.
        run_machine(lambda: LogMachine(new_yard(), runner), settings=settings)  # type: ignore[arg-type]


def test_the_log_in_memory_does_what_the_model_does() -> None:
    _check(MemoryYard, share=0.5)


def test_the_log_on_postgres_does_what_the_model_does(request: Any) -> None:
    database: Database = request.getfixturevalue("database")
    _check(lambda: PostgresYard(database), share=0.1)
