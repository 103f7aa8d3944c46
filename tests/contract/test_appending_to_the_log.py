"""What every implementation of the log does with a command. Memory and Postgres pass the same tests."""

from __future__ import annotations

import asyncio

import pytest

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.ids import StreamName, deterministic_id, stream_name, uuid7
from runyard_core.errors import Conflict, IdReused, InvalidInput, PermissionDenied
from runyard_eventlog.admission import EVENT_BYTES_MAX
from runyard_eventlog.port import EventLog, StreamAppend
from tests.contract.conftest import OpenLog
from tests.contract.events import (
    DOMAIN,
    TELEMETRY,
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
    with pytest.raises(InvalidInput) as caught:
        await log.append(details(StreamName(name), 0, "a"))
    assert caught.value.code == "BAD_STREAM_NAME"


async def test_a_command_names_each_stream_once_and_each_event_id_once(log: EventLog) -> None:
    stream = run_stream()
    event, other = detail(stream, "a"), detail(stream, "b")
    for twice in (
        command(StreamAppend(stream, 0, [event]), StreamAppend(stream, 1, [other])),
        command(StreamAppend(stream, 0, [event, event])),
    ):
        with pytest.raises(InvalidInput) as caught:
            await log.append(twice)
        assert caught.value.code == "ID_TWICE"


async def test_of_racing_commands_on_one_version_exactly_one_wins(log: EventLog) -> None:
    stream = run_stream()
    results = await asyncio.gather(
        *(log.append(details(stream, 0, f"n{number}")) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(result, Conflict) for result in results) == 19
    assert len(await log.read_stream(stream)) == 1
