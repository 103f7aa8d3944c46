"""Which waiting commands share a batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import CommandId, EventId, StreamName
from runyard_eventlog.admission import AdmittedCommand, AdmittedEvent
from runyard_eventlog.batching import BYTES_MAX, COMMANDS_MAX, next_batch

pytestmark = pytest.mark.system


def admitted(
    command_id: str,
    streams: Sequence[str],
    event_id: str,
    lane: Lane.ValueType = Lane.LANE_DOMAIN,
    size: int = 10,
) -> AdmittedCommand:
    event = AdmittedEvent(
        stream=StreamName(streams[0]),
        version=1,
        type="t",
        event_id=EventId(event_id),
        digest=b"",
        correlation_id="c",
        causation_id=None,
        actor="user:a",
        payload=b"x" * size,
    )
    named = tuple((StreamName(stream), 0) for stream in streams)
    names = frozenset([command_id, *streams, event_id])
    return AdmittedCommand(CommandId(command_id), b"", lane, named, (event,), names, size)


some_commands = st.lists(
    st.builds(
        admitted,
        st.sampled_from(["c1", "c2", "c3", "c4"]),
        st.lists(st.sampled_from(["run-a", "run-b", "run-c", "node-d"]), min_size=1, max_size=3, unique=True),
        st.sampled_from(["e1", "e2", "e3", "e4"]),
        st.sampled_from([Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY]),
    ),
    max_size=12,
)


@given(some_commands)
def test_no_two_of_a_batch_share_a_name_or_differ_in_lane(waiting: list[AdmittedCommand]) -> None:
    batch = [waiting[index] for index in next_batch(waiting)]
    taken: set[str] = set()
    for command in batch:
        assert not command.names & taken
        taken |= command.names
    assert len({command.lane for command in batch}) <= 1


@given(some_commands)
def test_no_command_overtakes_one_that_it_shares_a_name_with(waiting: list[AdmittedCommand]) -> None:
    batch = next_batch(waiting)
    for index in batch:
        for earlier in range(index):
            assert earlier in batch or not waiting[earlier].names & waiting[index].names


@given(some_commands.filter(bool))
def test_the_first_in_the_queue_always_goes(waiting: list[AdmittedCommand]) -> None:
    assert next_batch(waiting)[0] == 0


def test_a_batch_is_limited_in_commands_and_bytes() -> None:
    many = [admitted(f"c{n}", [f"run-{n}"], f"e{n}") for n in range(COMMANDS_MAX + 5)]
    assert next_batch(many) == list(range(COMMANDS_MAX))
    large = [admitted(f"c{n}", [f"run-{n}"], f"e{n}", size=BYTES_MAX // 2 + 1) for n in range(3)]
    assert next_batch(large) == [0]
