"""What every implementation of the log answers a reader. Memory and Postgres pass the same tests."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

from runyard_contracts.ids import EventId, Position, stream_name, uuid7
from runyard_eventlog.port import EVERYTHING, EventFilter, EventLog, StreamAppend
from tests.contract.conftest import OpenLog
from tests.contract.events import (
    DOMAIN,
    NOON,
    append_at_end,
    chunk,
    command,
    context,
    detail,
    details,
    fill,
    queued,
    run_stream,
    texts,
)


async def test_pages_follow_each_other_without_gap(log: EventLog) -> None:
    await fill(log, 7)
    pages = []
    position = Position(0)
    while (page := await log.read(DOMAIN, after_position=position, limit=3)).events:
        pages.append([event.position for event in page.events])
        position = page.scanned_to
    assert pages == [[1, 2, 3], [4, 5, 6], [7]]
    assert page.scanned_to == 7


async def test_a_page_ends_where_its_bytes_are_full(log: EventLog) -> None:
    run = run_stream()
    large, small = "x" * 1_000_000, "y"
    texts_told = [*[large] * 9, small, large, small]
    for version, text in enumerate(texts_told):
        await log.append(details(run, version, text))
    of_run = EventFilter(streams=[run])
    for wanted in (EVERYTHING, of_run, EventFilter(types=["runyard.run."])):
        first = await log.read(DOMAIN, filter=wanted)
        assert ([event.position for event in first.events], first.scanned_to) == ([*range(1, 9)], 8)
        rest = await log.read(DOMAIN, filter=wanted, after_position=first.scanned_to)
        assert ([event.position for event in rest.events], rest.scanned_to) == ([*range(9, 13)], 12)
        assert (first.is_full, rest.is_full) == (True, False)
        down = await log.read(DOMAIN, filter=wanted, descending=True)
        assert ([event.position for event in down.events], down.scanned_to) == ([*range(12, 2, -1)], 3)
        assert down.is_full
        assert [len(event.message.status_detail) for event in rest.events] == [1_000_000, 1, 1_000_000, 1]  # type: ignore[attr-defined]  # all are details


async def test_a_page_says_whether_it_is_full(log: EventLog) -> None:
    await fill(log, 3)
    for wanted in (EVERYTHING, EventFilter(types=["runyard.run."])):
        for descending in (False, True):
            sizes = [
                await log.read(DOMAIN, filter=wanted, descending=descending, limit=size) for size in (2, 3, 4)
            ]
            assert [page.is_full for page in sizes] == [True, True, False]
    assert not (await log.read(DOMAIN, after_position=Position(3))).is_full


async def test_a_page_ends_where_it_is_told(log: EventLog) -> None:
    await fill(log, 5)
    assert await texts(log, to_position=3) == ["n0", "n1", "n2"]
    assert await texts(log, after_position=3, to_position=2) == []
    page = await log.read(DOMAIN, after_position=Position(9))
    assert (page.events, page.scanned_to) == ([], 9)


async def test_descending_pages_start_at_the_newest(log: EventLog) -> None:
    await fill(log, 5)
    page = await log.read(DOMAIN, limit=2, descending=True)
    assert ([event.position for event in page.events], page.scanned_to) == ([5, 4], 4)
    rest = await log.read(DOMAIN, to_position=Position(page.scanned_to - 1), descending=True)
    assert ([event.position for event in rest.events], rest.scanned_to) == ([3, 2, 1], 1)


async def test_a_filtered_page_says_how_far_it_looked(log: EventLog) -> None:
    wanted = run_stream()
    await log.append(command(StreamAppend(wanted, 0, [queued(wanted)])))
    await fill(log, 4)
    only = EventFilter(types=["runyard.run.queued"])
    page = await log.read(DOMAIN, filter=only)
    assert ([event.position for event in page.events], page.scanned_to) == ([1], 5)
    full = await log.read(DOMAIN, filter=only, limit=1)
    assert full.scanned_to == 1


async def test_each_part_of_a_filter_selects(log: EventLog) -> None:
    run, node = run_stream(), stream_name("node", "n1")
    why, cause = uuid7(), uuid7()
    await log.append(command(StreamAppend(run, 0, [queued(run, context("user:bob", why))])))
    await log.append(command(StreamAppend(node, 0, [detail(node, "x", context("agent:n1", why, cause))])))
    await log.append(details(run, 1, "y"))

    async def found(wanted: EventFilter) -> list[int]:
        return [event.position for event in (await log.read(DOMAIN, filter=wanted)).events]

    assert await found(EventFilter(types=["runyard.run.queued"])) == [1]
    assert await found(EventFilter(types=["runyard.run."])) == [1, 2, 3]
    assert await found(EventFilter(types=["runyard.node.", "runyard.run.queued"])) == [1]
    many = [f"runyard.run{number}." for number in range(50)]
    assert await found(EventFilter(types=[*many, "runyard.run.status_"])) == []
    assert await found(EventFilter(types=[*many, "runyard.run."])) == [1, 2, 3]
    assert await found(EventFilter(streams=[run])) == [1, 3]
    assert await found(EventFilter(categories=["node"])) == [2]
    assert await found(EventFilter(categories=["node", "run"])) == [1, 2, 3]
    assert await found(EventFilter(categories=["no", "un"])) == []
    assert await found(EventFilter(correlation_id=why)) == [1, 2]
    assert await found(EventFilter(causation_id=cause)) == [2]
    assert await found(EventFilter(actor="user:bob")) == [1]
    assert await found(EventFilter(streams=[run], correlation_id=why)) == [1]
    assert await found(EventFilter(types=["runyard.run.finished"])) == []


async def test_a_stream_is_read_from_a_version_and_up_to_a_position(log: EventLog) -> None:
    stream = run_stream()
    await fill(log, 3, [stream])
    await fill(log, 2)
    await log.append(details(stream, 3, "last"))

    async def positions(**options: int) -> list[int]:
        return [event.position for event in await log.read_stream(stream, **options)]  # type: ignore[arg-type]

    assert await positions(after_version=1) == [2, 3, 6]
    assert await positions(to_position=5) == [1, 2, 3]
    assert await positions(limit=2) == [1, 2]
    assert await log.read_stream(run_stream()) == []


async def test_a_time_maps_to_the_last_position_recorded_by_then(log: EventLog) -> None:
    assert await log.position_at(NOON) == 0
    await fill(log, 6)
    events = (await log.read(DOMAIN)).events
    times = [event.envelope.recorded_at.ToDatetime(NOON.tzinfo) for event in events]
    assert times == sorted(times)
    for time in times:
        expected = max(event.position for event, at in zip(events, times, strict=True) if at <= time)
        assert await log.position_at(time) == expected
    assert await log.position_at(times[0] - timedelta(microseconds=1)) == 0
    assert await log.position_at(times[-1] + timedelta(days=1)) == 6


async def test_an_event_of_either_lane_is_found_by_its_id(log: EventLog, metrics_log: EventLog) -> None:
    stream = stream_name("telemetry", "node-1.spool")
    run = run_stream()
    line, event = chunk(stream, "a"), detail(run, "b")
    await metrics_log.append(command(StreamAppend(stream, 0, [line])))
    await log.append(command(StreamAppend(run, 0, [event])))
    for wanted in (line, event):
        found = await log.find(EventId(wanted.event_id))
        assert found is not None
        assert (found.envelope.event_id, found.position) == (wanted.event_id, 1)
    assert await log.find(EventId(uuid7())) is None


async def test_a_tailing_reader_sees_every_event_once_and_in_order(log: EventLog, open_log: OpenLog) -> None:
    """Many writers with pauses, conflicts and repetitions, against one reader that follows them."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    streams = [run_stream() for _ in range(5)]
    logs = [log, await open_log("scheduler")]
    appended: list[int] = []
    is_done = asyncio.Event()

    async def write(writer: int) -> None:
        for number in range(25):
            await asyncio.sleep(dice.random() * 0.003)
            log = dice.choice(logs)
            answer = await append_at_end(log, dice.choice(streams), f"{writer}.{number}")
            appended.extend(answer.positions)

    async def tail() -> list[int]:
        seen: list[int] = []
        while True:
            was_done = is_done.is_set()
            page = await log.read(DOMAIN, after_position=Position(seen[-1] if seen else 0), limit=7)
            seen.extend(event.position for event in page.events)
            if was_done and not page.events:
                return seen
            await asyncio.sleep(0)

    reader = asyncio.ensure_future(tail())
    await asyncio.gather(*(write(writer) for writer in range(16)))
    is_done.set()
    seen = await reader
    assert seen == list(range(1, 16 * 25 + 1))
    assert sorted(appended) == seen
    for stream in streams:
        versions = [event.envelope.stream_version for event in await log.read_stream(stream)]
        assert versions == list(range(1, len(versions) + 1))
