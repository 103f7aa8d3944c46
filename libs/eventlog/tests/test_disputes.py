"""Disputes of events: said with a reason, once, and taken back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runyard.cost.v1.events_pb2 import PriceSet
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, Position, stream_name, uuid7
from runyard_core.errors import InvalidInput, NotFound, Rejected
from runyard_eventlog.disputes import dispute, disputed_events
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import AppendCommand, StreamAppend

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CONTEXT = Context(parse_actor("user:alice"), "request", "/lineage")


async def price_set(log: MemoryEventLog) -> str:
    """Set a price; gives the event's id."""
    stream = stream_name("price", uuid7())
    envelope = wrap(PriceSet(), stream, CONTEXT, NOW)
    await log.append(AppendCommand(CommandId(uuid7()), [StreamAppend(stream, 0, [envelope])]))
    return envelope.event_id


async def say(log: MemoryEventLog, event_id: str, *, reason: str = "a slip", withdraw: bool = False) -> int:
    executed, _ = await dispute(
        log, event_id, reason, CONTEXT, withdraw=withdraw, command_id=CommandId(uuid7()), now=NOW
    )
    return executed.position


async def test_a_dispute_counts_from_its_position_on_until_it_is_withdrawn() -> None:
    log = MemoryEventLog()
    event_id, other = await price_set(log), await price_set(log)
    said, taken_back = await say(log, event_id), await say(log, event_id, withdraw=True)
    await say(log, other)
    assert await disputed_events(log, Position(said - 1)) == set()
    assert await disputed_events(log, Position(said)) == {event_id}
    assert await disputed_events(log, Position(taken_back)) == set()
    assert await disputed_events(log, Position(taken_back + 1)) == {other}


async def test_a_dispute_is_said_once() -> None:
    log = MemoryEventLog()
    event_id = await price_set(log)
    with pytest.raises(Rejected, match="is not disputed"):
        await say(log, event_id, withdraw=True)
    await say(log, event_id)
    with pytest.raises(Rejected, match="disputed already"):
        await say(log, event_id)


async def test_what_tells_of_the_log_itself_always_counts() -> None:
    log = MemoryEventLog()
    await say(log, await price_set(log))
    (told,) = (await log.read_stream(stream_name("log", f"dispute.{await _disputed(log)}")))[-1:]
    with pytest.raises(Rejected) as refused:
        await say(log, told.envelope.event_id)
    assert refused.value.code == "NOT_DISPUTABLE"


async def _disputed(log: MemoryEventLog) -> str:
    (event_id,) = await disputed_events(log, (await log.head()).domain_position)
    return event_id


@pytest.mark.parametrize("event_id", ["", "nothing", "0198aaaa-0000-7000-8000-000000000001"])
async def test_an_unknown_event_cannot_be_disputed(event_id: str) -> None:
    with pytest.raises(NotFound) as refused:
        await say(MemoryEventLog(), event_id)
    assert refused.value.code == "EVENT_NOT_FOUND"


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1_001])
async def test_a_dispute_needs_a_reason(reason: str) -> None:
    log = MemoryEventLog()
    with pytest.raises(InvalidInput) as refused:
        await say(log, await price_set(log), reason=reason)
    assert refused.value.code == "BAD_REASON"
