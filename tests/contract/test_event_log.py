"""What every implementation of the log must do. Memory and Postgres pass the same tests."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.ids import EventId, Position, StreamName, deterministic_id, stream_name, uuid7
from runyard_core.errors import Conflict, IdReused, InvalidInput, PermissionDenied
from runyard_eventlog.admission import EVENT_BYTES_MAX
from runyard_eventlog.port import EventFilter, EventLog, StreamAppend
from tests.contract.conftest import OpenLog
from tests.contract.events import (
    DOMAIN,
    NOON,
    TELEMETRY,
    append_at_end,
    chunk,
    command,
    context,
    detail,
    details,
    fill,
    queued,
    run_stream,
)


async def texts(log: EventLog, **options: object) -> list[str]:
    page = await log.read(DOMAIN, **options)  # type: ignore[arg-type]  # passes them on as they are
    return [event.message.status_detail for event in page.events]  # type: ignore[attr-defined]  # all are details


async def test_events_of_a_command_get_consecutive_positions_and_versions(log: EventLog) -> None:
    stream = run_stream()
    first = await log.append(details(stream, 0, "a", "b", "c"))
    second = await log.append(details(stream, 3, "d"))
    assert (first.positions, first.repeated) == ((1, 2, 3), False)
    assert second.position == 4
    history = await log.read_stream(stream)
    assert [event.envelope.stream_version for event in history] == [1, 2, 3, 4]
    assert [event.position for event in history] == [1, 2, 3, 4]


async def test_what_is_read_is_what_was_appended_and_what_the_log_adds(log: EventLog) -> None:
    stream = run_stream()
    given = queued(stream, context(causation_id=uuid7()))
    asked = command(StreamAppend(stream, 0, [given]))
    await log.append(asked)
    (event,) = await log.read_stream(stream)
    read = Envelope()
    read.CopyFrom(event.envelope)
    assert (read.stream_version, read.position, read.command_id) == (1, 1, asked.command_id)
    assert read.HasField("recorded_at")
    for name in ("stream_version", "position", "command_id", "recorded_at"):
        read.ClearField(name)
    assert read == given


async def test_a_conflict_names_the_versions_and_appends_nothing(log: EventLog) -> None:
    stream, other = run_stream(), run_stream()
    await log.append(details(stream, 0, "a", "b"))
    stale = command(
        StreamAppend(other, 0, [detail(other, "x")]), StreamAppend(stream, 1, [detail(stream, "y")])
    )
    with pytest.raises(Conflict) as caught:
        await log.append(stale)
    assert caught.value.metadata == {"stream": stream, "expected": "1", "actual": "2"}
    assert await log.read_stream(other) == []
    assert (await log.head()).domain_position == 2


async def test_a_version_ahead_of_the_stream_is_a_conflict(log: EventLog) -> None:
    with pytest.raises(Conflict):
        await log.append(details(run_stream(), 1, "a"))


async def test_several_streams_are_appended_together(log: EventLog) -> None:
    run, node = run_stream(), stream_name("node", "n1")
    both = command(
        StreamAppend(run, 0, [detail(run, "a")]),
        StreamAppend(node, 0, [detail(node, "b"), detail(node, "c")]),
    )
    assert (await log.append(both)).positions == (1, 2, 3)
    assert [event.envelope.stream_version for event in await log.read_stream(node)] == [1, 2]


async def test_a_repeated_command_gets_its_first_answer(log: EventLog) -> None:
    stream = run_stream()
    asked = details(stream, 0, "a", "b")
    first = await log.append(asked)
    await log.append(details(stream, 2, "c"))
    again = await log.append(asked)
    assert (again.positions, again.position, again.repeated) == (first.positions, first.position, True)
    assert (await log.head()).domain_position == 3


async def test_a_command_id_with_other_content_is_refused_and_named(log: EventLog) -> None:
    asked = details(run_stream(), 0, "a")
    await log.append(asked)
    stream = run_stream()
    with pytest.raises(IdReused, match=asked.command_id):
        await log.append(command(StreamAppend(stream, 0, [detail(stream, "a")]), command_id=asked.command_id))


async def test_a_request_digest_decides_whether_a_command_is_the_same(log: EventLog) -> None:
    stream, command_id, digest = run_stream(), uuid7(), b"\x01" * 32
    first = await log.append(
        command(StreamAppend(stream, 0, [detail(stream, "a")]), command_id=command_id, digest=digest)
    )
    again = command(StreamAppend(stream, 0, [detail(stream, "b")]), command_id=command_id, digest=digest)
    assert (await log.append(again)).positions == first.positions
    found = await log.find_command(again.command_id, digest)
    assert found is not None
    assert found.positions == first.positions
    with pytest.raises(IdReused, match=command_id):
        await log.find_command(again.command_id, b"\x02" * 32)
    assert await log.find_command(details(stream, 0, "x").command_id) is None


async def test_a_repetition_with_fewer_events_gets_all_positions_of_the_first(log: EventLog) -> None:
    stream, command_id, digest = run_stream(), uuid7(), b"\x01" * 32
    two = [detail(stream, "a"), detail(stream, "b")]
    first = await log.append(command(StreamAppend(stream, 0, two), command_id=command_id, digest=digest))
    fewer = command(StreamAppend(stream, 2, [detail(stream, "c")]), command_id=command_id, digest=digest)
    again = await log.append(fewer)
    assert (again.positions, again.position, again.repeated) == (first.positions, first.position, True)


async def test_repeated_events_get_their_first_positions_under_any_command(metrics_log: EventLog) -> None:
    stream = stream_name("telemetry", "node-1.spool")
    ids = [deterministic_id("node-1", "spool", number) for number in (1, 2)]
    batches = [chunk(stream, f"line {number}", ids[number]) for number in (0, 1)]
    await metrics_log.append(command(StreamAppend(stream, 0, batches[:1])))
    await metrics_log.append(command(StreamAppend(stream, 1, batches[1:])))
    again = await metrics_log.append(command(StreamAppend(stream, 0, batches)))
    assert (again.positions, again.repeated) == ((1, 2), True)


async def test_an_event_as_it_was_read_counts_as_the_same(log: EventLog) -> None:
    stream = run_stream()
    await log.append(details(stream, 0, "a"))
    read = [event.envelope for event in await log.read_stream(stream)]
    assert (await log.append(command(StreamAppend(stream, 0, read)))).repeated


async def test_an_event_id_with_other_content_is_refused_and_named(log: EventLog) -> None:
    stream, other = run_stream(), run_stream()
    first = detail(stream, "a")
    await log.append(command(StreamAppend(stream, 0, [first])))
    forged = detail(other, "b")
    forged.event_id = first.event_id
    with pytest.raises(IdReused, match=first.event_id):
        await log.append(command(StreamAppend(other, 0, [forged])))


async def test_a_command_with_some_known_events_is_refused(log: EventLog) -> None:
    stream = run_stream()
    first = detail(stream, "a")
    await log.append(command(StreamAppend(stream, 0, [first])))
    with pytest.raises(IdReused) as caught:
        await log.append(command(StreamAppend(stream, 0, [first, detail(stream, "b")])))
    assert caught.value.code == "EVENTS_PARTLY_KNOWN"


async def test_the_lanes_count_apart_and_telemetry_says_which_domain_event_it_follows(
    log: EventLog, metrics_log: EventLog
) -> None:
    stream = stream_name("telemetry", "node-1.spool")
    await metrics_log.append(command(StreamAppend(stream, 0, [chunk(stream, "a")])))
    await fill(log, 3)
    answer = await metrics_log.append(command(StreamAppend(stream, 1, [chunk(stream, "b")])))
    assert answer.position == 2
    head = await log.head()
    assert (head.domain_position, head.telemetry_position) == (3, 2)
    assert (head.of(DOMAIN), head.of(TELEMETRY)) == (3, 2)
    page = await log.read(TELEMETRY)
    assert [event.envelope.after_position for event in page.events] == [0, 3]


async def test_a_role_appends_only_to_its_own_categories(open_log: OpenLog) -> None:
    cost = await open_log("cost")
    with pytest.raises(PermissionDenied) as caught:
        await cost.append(details(run_stream(), 0, "a"))
    assert caught.value.code == "NOT_YOUR_CATEGORY"
    price = stream_name("price", uuid7())
    assert (await cost.append(details(price, 0, "a"))).position == 1


async def test_a_role_without_categories_appends_nothing(open_log: OpenLog) -> None:
    for role in ("relay", "reader"):
        log = await open_log(role)
        with pytest.raises(PermissionDenied):
            await log.append(details(run_stream(), 0, "a"))
        assert (await log.head()).domain_position == 0


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("correlation_id", "NO_CORRELATION"),
        ("actor", "NO_ACTOR"),
        ("type", "NO_TYPE"),
        ("source", "NO_SOURCE"),
        ("occurred_at", "NO_SOURCE"),
        ("event_id", "BAD_ID"),
        ("lane", "WRONG_LANE"),
        ("stream", "WRONG_STREAM"),
    ],
)
async def test_an_envelope_without_who_why_and_what_is_refused(log: EventLog, field: str, code: str) -> None:
    stream = run_stream()
    event = detail(stream, "a")
    event.ClearField(field)  # type: ignore[arg-type]  # a name of the list above
    with pytest.raises(InvalidInput) as caught:
        await log.append(command(StreamAppend(stream, 0, [event])))
    assert caught.value.code == code
    assert (await log.head()).domain_position == 0


async def test_an_event_over_the_limit_is_refused_and_one_below_is_kept(log: EventLog) -> None:
    stream = run_stream()
    with pytest.raises(InvalidInput) as caught:
        await log.append(details(stream, 0, "x" * EVENT_BYTES_MAX))
    assert caught.value.code == "EVENT_TOO_LARGE"
    large = "x" * (EVENT_BYTES_MAX - 1_000)
    await log.append(details(stream, 0, large))
    assert await texts(log) == [large]


@pytest.mark.parametrize("name", ["run", "run-", "Run-1", "run-a b", "run-../x", "-1", f"run-{'x' * 300}"])
async def test_a_bad_stream_name_is_refused(log: EventLog, name: str) -> None:
    with pytest.raises(InvalidInput):
        await log.append(details(StreamName(name), 0, "a"))


async def test_a_command_names_each_stream_once_and_each_event_id_once(log: EventLog) -> None:
    stream = run_stream()
    event = detail(stream, "a")
    with pytest.raises(InvalidInput):
        await log.append(command(StreamAppend(stream, 0, [event]), StreamAppend(stream, 1, [event])))
    with pytest.raises(InvalidInput):
        await log.append(command(StreamAppend(stream, 0, [event, event])))


async def test_pages_follow_each_other_without_gap(log: EventLog) -> None:
    await fill(log, 7)
    pages = []
    position = Position(0)
    while (page := await log.read(DOMAIN, after_position=position, limit=3)).events:
        pages.append([event.position for event in page.events])
        position = page.scanned_to
    assert pages == [[1, 2, 3], [4, 5, 6], [7]]
    assert page.scanned_to == 7


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
    assert await found(EventFilter(streams=[run])) == [1, 3]
    assert await found(EventFilter(categories=["node"])) == [2]
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


async def test_of_racing_commands_on_one_version_exactly_one_wins(log: EventLog) -> None:
    stream = run_stream()
    results = await asyncio.gather(
        *(log.append(details(stream, 0, f"n{number}")) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(result, Conflict) for result in results) == 19
    assert len(await log.read_stream(stream)) == 1


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
