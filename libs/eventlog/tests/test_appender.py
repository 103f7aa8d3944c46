"""Group commit without a database: who shares a batch, who waits, who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

import asyncpg
import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard.run.v1.events_pb2 import RunQueued
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, Position, stream_name, uuid7
from runyard_core.errors import Unavailable
from runyard_eventlog import appender
from runyard_eventlog.admission import AdmittedCommand, admit
from runyard_eventlog.appender import Appender
from runyard_eventlog.port import AppendCommand, StreamAppend

CONTEXT = Context(actor=parse_actor("user:alice"), correlation_id="c", source="/tests")


class Database:
    """A pool of one connection, whose append function accepts everything once it may answer."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []
        self.may_answer = asyncio.Event()
        self.is_asked = asyncio.Event()

    async def acquire(self, timeout: float) -> Database:
        return self

    async def release(self, connection: Database, timeout: float) -> None:
        pass

    def terminate(self) -> None:
        pass

    async def fetch(
        self,
        statement: str,
        lane: int,
        command_ids: list[str],
        *columns: object,
        timeout: float,
    ) -> list[Mapping[object, object]]:
        self.is_asked.set()
        await self.may_answer.wait()
        first = 1 + sum(self.batch_sizes)
        self.batch_sizes.append(len(command_ids))
        return [{0: None, "outcome": "appended", "first_position": first}]


@pytest.fixture
async def database() -> Database:
    return Database()


def on(database: Database, told: list[Position] | None = None) -> Appender:
    return Appender(
        cast("asyncpg.Pool", database),
        lambda _, position: None if told is None else told.append(position),
    )


def one() -> AdmittedCommand:
    run_id = uuid7()
    stream = stream_name("run", run_id)
    event = wrap(RunQueued(run_id=run_id), stream, CONTEXT, datetime.now(UTC))
    return admit(AppendCommand(CommandId(uuid7()), [StreamAppend(stream, 0, [event])]))


async def test_who_asks_while_a_batch_is_under_way_shares_the_next_and_is_told_once(
    database: Database,
) -> None:
    told: list[Position] = []
    batches = on(database, told)
    first = asyncio.ensure_future(batches.append(one(), 5.0))
    await database.is_asked.wait()
    others = [asyncio.ensure_future(batches.append(one(), 5.0)) for _ in range(3)]
    await asyncio.sleep(0)
    database.may_answer.set()
    answers = await asyncio.gather(first, *others)
    assert [answer.positions for answer in answers] == [(1,), (2,), (3,), (4,)]
    assert database.batch_sizes == [1, 3]
    assert told == [1, 4]
    await batches.close()


async def test_a_caller_that_finds_no_room_waits_no_longer_than_it_said(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "QUEUE_MAX", 2)
    batches = on(database)
    under_way = asyncio.ensure_future(batches.append(one(), 5.0))
    await database.is_asked.wait()
    waiting = [asyncio.ensure_future(batches.append(one(), 5.0)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await batches.append(one(), 0.01)
    assert caught.value.code == "LOG_TIMEOUT"
    patient = asyncio.ensure_future(batches.append(one(), 5.0))
    database.may_answer.set()
    answers = await asyncio.gather(under_way, *waiting, patient)
    assert [answer.position for answer in answers] == [1, 2, 3, 4]
    assert database.batch_sizes == [1, 2, 1]
    await batches.close()


async def test_closing_refuses_those_that_wait_for_room_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "QUEUE_MAX", 1)
    batches = on(database)
    callers = [asyncio.ensure_future(batches.append(one(), 5.0)) for _ in range(4)]
    await database.is_asked.wait()
    await batches.close()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 4


async def test_a_batch_is_of_one_lane(database: Database) -> None:
    lanes: list[Lane.ValueType] = []
    batches = Appender(cast("asyncpg.Pool", database), lambda lane, _: lanes.append(lane))
    database.may_answer.set()
    telemetry = one()._replace(lane=Lane.LANE_TELEMETRY)
    await asyncio.gather(*(batches.append(command, 5.0) for command in (one(), telemetry, one())))
    assert lanes == [Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY]
    assert database.batch_sizes == [2, 1]
    await batches.close()
