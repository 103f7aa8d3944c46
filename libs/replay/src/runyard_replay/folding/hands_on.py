"""The hands-on sessions of a run, folded from the events of its stream."""

from __future__ import annotations

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Run
from runyard_contracts.envelope import actor_name

ENDED_MAX = 20
"""Most sessions that have ended which a run shows; the log has all of them."""


def apply_hands_on(run: Run, message: Message, envelope: Envelope) -> None:
    """Bring the sessions of a run up to date with its next event."""
    match message:
        case ev.RunHandsOnOpened():
            opened = run.hands_on_sessions.add(
                session_id=message.session_id,
                attempt=message.attempt,
                node_id=message.node_id,
                opened_by=actor_name(envelope.actor),
                command=message.command,
                terminal=message.terminal,
                port=message.port,
            )
            opened.opened_at.CopyFrom(envelope.occurred_at)
        case ev.RunHandsOnClosed():
            _close(run, message, envelope)
        case _:
            pass


def _close(run: Run, message: ev.RunHandsOnClosed, envelope: Envelope) -> None:
    sessions = run.hands_on_sessions
    session = next((each for each in sessions if each.session_id == message.session_id), None)
    if session is None:
        return
    session.ended_at.CopyFrom(envelope.occurred_at)
    session.end_reason = message.end_reason
    session.detail = message.detail
    if message.HasField("exit_status"):
        session.exit_status.CopyFrom(message.exit_status)
    session.sent_bytes = message.sent_bytes
    session.received_bytes = message.received_bytes
    session.connection_count = message.connection_count
    ended = [index for index, each in enumerate(sessions) if each.HasField("ended_at")]
    if len(ended) > ENDED_MAX:
        del sessions[ended[0]]
