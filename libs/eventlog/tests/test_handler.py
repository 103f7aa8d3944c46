"""From a command to its events, over the log in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import Message

from runyard.run.v1.events_pb2 import RunStatusDetailSet
from runyard_contracts.envelope import Context, parse_actor
from runyard_contracts.ids import CommandId, StreamName, stream_name, uuid7
from runyard_core.decider import Decider
from runyard_core.errors import Conflict, IdReused, Rejected
from runyard_eventlog.handler import TRIES_MAX, Part, execute, execute_over
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import AppendCommand, Appended

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONTEXT = Context(actor=parse_actor("user:alice"), correlation_id="c", source="/scheduler")


@dataclass(frozen=True, slots=True)
class Say:
    text: str


def decide(said: tuple[str, ...], command: Say) -> list[RunStatusDetailSet]:
    if command.text == "never":
        raise Rejected("never", code="NEVER")
    if command.text in said:
        return []
    return [RunStatusDetailSet(status_detail=command.text)]


def evolve(said: tuple[str, ...], event: RunStatusDetailSet) -> tuple[str, ...]:
    return (*said, event.status_detail)


TALK: Decider[tuple[str, ...], Say, RunStatusDetailSet] = Decider((), decide, evolve)


class RacedLog(MemoryEventLog):
    """Somebody else appends to the stream just before each of the next appends."""

    def __init__(self, races: int) -> None:
        super().__init__()
        self.races = races

    async def append(self, command: AppendCommand) -> Appended:
        if self.races:
            self.races -= 1
            somebody = copy.copy(self)
            somebody.races = 0
            await say(somebody, f"race {self.races}")
        return await super().append(command)


STREAM = stream_name("run", "r1")


async def say(
    log: MemoryEventLog, text: str, command_id: str = "", digest: bytes = b"", stream: StreamName = STREAM
) -> tuple[list[str], bool]:
    done = await execute(
        log,
        stream,
        TALK,
        Say(text),
        CONTEXT,
        command_id=CommandId(command_id or uuid7()),
        now=NOON,
        request_digest=digest,
    )
    return [
        event.status_detail for event in done.events if isinstance(event, RunStatusDetailSet)
    ], done.repeated


async def test_a_command_appends_what_is_decided() -> None:
    log = MemoryEventLog()
    assert await say(log, "a") == (["a"], False)
    (event,) = await log.read_stream(STREAM)
    assert event.envelope.actor.id == "alice"
    assert event.envelope.occurred_at.ToDatetime(UTC) == NOON


async def test_a_command_that_is_already_so_appends_nothing() -> None:
    log = MemoryEventLog()
    await say(log, "a")
    assert await say(log, "a") == ([], False)
    assert (await log.head()).domain_position == 1


async def test_a_rejection_comes_through() -> None:
    with pytest.raises(Rejected) as caught:
        await say(MemoryEventLog(), "never")
    assert caught.value.code == "NEVER"


async def test_a_repeated_command_is_not_decided_again() -> None:
    log = MemoryEventLog()
    command_id = uuid7()
    assert await say(log, "a", command_id) == (["a"], False)
    await say(log, "b")
    # Deciding again would give nothing: it is already so.
    assert await say(log, "a", command_id) == (["a"], True)


async def test_a_command_id_with_another_request_is_refused() -> None:
    log = MemoryEventLog()
    command_id = uuid7()
    await say(log, "a", command_id, b"\x01" * 32)
    with pytest.raises(IdReused):
        await say(log, "b", command_id, b"\x02" * 32)


async def test_a_lost_race_is_decided_again() -> None:
    log = RacedLog(races=TRIES_MAX - 1)
    assert await say(log, "a") == (["a"], False)


async def test_races_without_end_are_a_conflict() -> None:
    with pytest.raises(Conflict):
        await say(RacedLog(races=1_000_000), "a")


async def test_several_streams_change_together_or_not_at_all() -> None:
    log = MemoryEventLog()
    run, node = STREAM, stream_name("node", "n1")

    def both(states: Sequence[Any]) -> Mapping[StreamName, Sequence[Message]]:
        assert [len(state) for state in states] == [0, 0]
        return {run: [RunStatusDetailSet(status_detail="r")], node: [RunStatusDetailSet(status_detail="n")]}

    parts = [Part(run, TALK), Part(node, TALK)]
    done = await execute_over(log, parts, both, CONTEXT, command_id=CommandId(uuid7()), now=NOON)
    assert (done.position, len(done.events)) == (2, 2)
    await say(log, "later", stream=node)

    def stale(_: Sequence[Any]) -> Mapping[StreamName, Sequence[Message]]:
        return {node: [RunStatusDetailSet(status_detail="x")]}

    await execute_over(log, parts, stale, CONTEXT, command_id=CommandId(uuid7()), now=NOON)
    assert len(await log.read_stream(node)) == 3
