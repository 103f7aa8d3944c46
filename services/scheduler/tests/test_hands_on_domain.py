"""Whether hands may be put on a run, and what the record gets of it."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Envelope
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.hands_on_pb2 import ExitStatus, HandsOnEndReason
from runyard.run.v1.types_pb2 import RunSpec
from runyard_core.errors import Rejected, ResourceExhausted, RunyardError
from runyard_scheduler.domain.hands_on import COMMAND_CHARACTERS_MAX, REDACTED, SESSIONS_MAX, recordable
from runyard_scheduler.domain.run import RUN
from runyard_scheduler.domain.run_commands import CloseHandsOn, OpenHandsOn
from runyard_scheduler.domain.run_state import Run
from runyard_scheduler.process.recorded_commands import run_command

QUEUED = ev.RunQueued(run_id="r", project="digits", number=3, spec=RunSpec(step="train"))
GRANTED = ev.RunLeaseGranted(run_id="r", attempt=1, epoch=1, lease_id="l", node_id="node-1")
STARTED = ev.RunStarted(run_id="r", attempt=1, epoch=1)
OPENED = ev.RunHandsOnOpened(
    run_id="r", attempt=1, epoch=1, session_id="s", node_id="node-1", command=["ls"], terminal=True
)
OPEN = OpenHandsOn("s", epoch=1, command=("ls",), terminal=True)
EXITED = HandsOnEndReason.HANDS_ON_END_REASON_EXITED


def given_events(*events: Message) -> Run:
    return RUN.fold(events)


def refusal(run: Run) -> str:
    with pytest.raises(RunyardError) as refused:
        RUN.decide(run, OPEN)
    return refused.value.code


def test_a_session_of_a_running_attempt_is_recorded_with_its_place() -> None:
    assert RUN.decide(given_events(QUEUED, GRANTED, STARTED), OPEN) == [OPENED]


def test_hands_are_put_on_a_running_attempt_only() -> None:
    exited = ev.RunAttemptExited(run_id="r", attempt=1, epoch=1)
    finished = ev.RunFinished(run_id="r", attempt=1, epoch=1)
    assert refusal(given_events(QUEUED)) == "RUN_NOT_RUNNING"
    assert refusal(given_events(QUEUED, GRANTED)) == "RUN_NOT_RUNNING"
    assert refusal(given_events(QUEUED, GRANTED, STARTED, exited)) == "RUN_NOT_RUNNING"
    assert refusal(given_events(QUEUED, GRANTED, STARTED, exited, finished)) == "RUN_NOT_RUNNING"
    assert refusal(given_events(QUEUED, GRANTED, ev.RunRequeued(next_attempt=2))) == "RUN_NOT_RUNNING"


def test_a_run_that_is_being_stopped_can_be_looked_into() -> None:
    assert RUN.decide(given_events(QUEUED, GRANTED, STARTED, ev.RunStopRequested()), OPEN) == [OPENED]


def test_a_silent_node_is_said_to_be_so() -> None:
    silent = ev.RunUnreachable(run_id="r", attempt=1, epoch=1)
    assert refusal(given_events(QUEUED, GRANTED, STARTED, silent)) == "NODE_UNREACHABLE"


def test_another_attempt_than_the_one_that_was_joined_is_not_taken_for_it() -> None:
    run = given_events(QUEUED, GRANTED, STARTED)
    with pytest.raises(Rejected) as refused:
        RUN.decide(run, OpenHandsOn("s", epoch=2))
    assert refused.value.code == "ATTEMPT_ENDED"


def test_open_sessions_of_a_run_are_limited() -> None:
    opened = [ev.RunHandsOnOpened(session_id=f"s{number}") for number in range(SESSIONS_MAX)]
    run = given_events(QUEUED, GRANTED, STARTED, *opened)
    with pytest.raises(ResourceExhausted):
        RUN.decide(run, OPEN)
    assert RUN.decide(RUN.evolve(run, ev.RunHandsOnClosed(session_id="s3")), OPEN)


def test_a_session_is_closed_once_also_after_the_run() -> None:
    finished = ev.RunFinished(run_id="r", attempt=1, epoch=1)
    run = given_events(QUEUED, GRANTED, STARTED, OPENED, finished)
    close = CloseHandsOn(
        "s", 1, 1, EXITED, exit_status=ExitStatus(exit_code=3), sent_bytes=4, received_bytes=5
    )
    (closed,) = RUN.decide(run, close)
    assert isinstance(closed, ev.RunHandsOnClosed)
    assert (closed.exit_status.exit_code, closed.sent_bytes, closed.received_bytes) == (3, 4, 5)
    assert RUN.decide(RUN.evolve(run, closed), close) == []


def test_known_secrets_are_not_in_a_recorded_command() -> None:
    command = ["curl", "-H", "token: hunter2-long", "hunter2"]
    shown = recordable(command, ["hunter2", "hunter2-long"])
    assert shown == ("curl", "-H", f"token: {REDACTED}", REDACTED)


@given(st.lists(st.text(max_size=3_000), max_size=5), st.lists(st.text(min_size=4, max_size=9), max_size=3))
def test_no_recorded_command_holds_a_secret_or_is_long(command: list[str], values: list[str]) -> None:
    shown = recordable(command, values)
    assert sum(map(len, shown)) <= COMMAND_CHARACTERS_MAX + 1
    assert not [value for value in values if any(value in text for text in shown) and "*" not in value]


def test_a_recorded_command_is_cut_where_all_its_arguments_together_are_too_long() -> None:
    most = "a" * (COMMAND_CHARACTERS_MAX - 2)
    assert recordable([most, "bc"], ()) == (most, "bc")
    assert recordable([most, "b", "cd", "e"], ()) == (most, "b", "c\N{HORIZONTAL ELLIPSIS}")


def test_recorded_sessions_can_be_decided_again() -> None:
    run = given_events(QUEUED, GRANTED, STARTED)
    by_alice = Envelope(actor=Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"))
    opening = run_command(by_alice, [OPENED])
    assert opening == OPEN
    closed = ev.RunHandsOnClosed(
        run_id="r", attempt=1, epoch=1, session_id="s", end_reason=EXITED, received_bytes=7
    )
    closing = run_command(Envelope(), [closed])
    assert closing is not None
    assert RUN.decide(RUN.evolve(run, OPENED), closing) == [closed]
