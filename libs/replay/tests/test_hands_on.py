"""Hands-on sessions in a run's document and in words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Envelope
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.hands_on_pb2 import ExitStatus, HandsOnEndReason
from runyard.run.v1.types_pb2 import Run
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.hands_on import ENDED_MAX, apply_hands_on
from runyard_replay.folding.sentences import sentence_of


def folded(*messages: Message) -> Run:
    run = Run()
    for second, message in enumerate(messages, start=1):
        envelope = Envelope(actor=Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"))
        envelope.occurred_at.seconds = second
        apply_hands_on(run, message, envelope)
    return run


def opened(session_id: str) -> ev.RunHandsOnOpened:
    return ev.RunHandsOnOpened(session_id=session_id, attempt=1, node_id="n1", command=["ls"])


def closed(session_id: str) -> ev.RunHandsOnClosed:
    return ev.RunHandsOnClosed(session_id=session_id, exit_status=ExitStatus(exit_code=2), sent_bytes=3)


def test_a_session_shows_who_when_what_and_how_it_ended() -> None:
    (session,) = folded(opened("s"), closed("s")).hands_on_sessions
    assert (session.opened_by, session.opened_at.seconds, session.ended_at.seconds) == ("user:alice", 1, 2)
    assert (list(session.command), session.exit_status.exit_code, session.sent_bytes) == (["ls"], 2, 3)


def test_the_oldest_ended_sessions_make_room_and_open_ones_stay() -> None:
    messages: list[Message] = [opened("stays open")]
    for number in range(ENDED_MAX + 5):
        messages += [opened(str(number)), closed(str(number))]
    shown = [session.session_id for session in folded(*messages).hands_on_sessions]
    assert shown == ["stays open", *map(str, range(5, ENDED_MAX + 5))]


IDLE = HandsOnEndReason.HANDS_ON_END_REASON_IDLE
FAILED = HandsOnEndReason.HANDS_ON_END_REASON_FAILED


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            ev.RunHandsOnOpened(attempt=2, node_id="n1", terminal=True),
            "hands on attempt 2 on n1: a shell opened",
        ),
        (ev.RunHandsOnOpened(attempt=2, node_id="n1", port=80), "hands on attempt 2 on n1: port 80 opened"),
        (
            ev.RunHandsOnOpened(attempt=2, node_id="n1", command=["rm", "a b"]),
            "hands on attempt 2 on n1: command `rm 'a b'` opened",
        ),
        (
            ev.RunHandsOnClosed(attempt=2, exit_status=ExitStatus(exit_code=137, signal=9)),
            "hands on attempt 2 closed: ended by signal 9 (0 B sent, 0 B received)",
        ),
        (
            ev.RunHandsOnClosed(attempt=2, end_reason=IDLE, connection_count=1),
            (
                "hands on attempt 2 closed: ended, as nothing passed for long "
                "(0 B sent, 0 B received in 1 connection)"
            ),
        ),
        (
            ev.RunHandsOnClosed(attempt=2, end_reason=FAILED, detail="no such thing"),
            "hands on attempt 2 closed: failed: no such thing (0 B sent, 0 B received)",
        ),
    ],
)
def test_a_session_is_said_in_a_sentence(message: Message, words: str) -> None:
    assert sentence_of(RecordedEvent(Envelope(), message)) == words


def test_a_long_command_is_cut() -> None:
    words: Sequence[str] = ["x" * 200]
    assert len(sentence_of(RecordedEvent(Envelope(), ev.RunHandsOnOpened(command=words)))) < 150
