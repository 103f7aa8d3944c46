"""The hands-on sessions of a run, folded from the events of its stream, and in words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.hands_on_pb2 import ExitStatus, HandsOnEndReason
from runyard.run.v1.types_pb2 import Run
from runyard_contracts.envelope import actor_name

ENDED_MAX = 20
"""Most sessions that have ended which a run shows; the log has all of them."""

_COMMAND_CHARACTERS_MAX = 80
_END_WORDS = {
    HandsOnEndReason.HANDS_ON_END_REASON_CLIENT_LEFT: "closed by its user",
    HandsOnEndReason.HANDS_ON_END_REASON_ATTEMPT_ENDED: "ended with the attempt",
    HandsOnEndReason.HANDS_ON_END_REASON_IDLE: "ended, as nothing passed for long",
    HandsOnEndReason.HANDS_ON_END_REASON_AGENT_LOST: "ended with its agent",
    HandsOnEndReason.HANDS_ON_END_REASON_SCHEDULER_STOPPED: "ended with the scheduler",
    HandsOnEndReason.HANDS_ON_END_REASON_FAILED: "failed",
}


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


def what_text(command: Sequence[str], port: int, *, terminal: bool) -> str:
    """Say what a session is: "a shell", "command `nvidia-smi`", "port 6006"."""
    if port:
        return f"port {port}"
    if not command:
        return "a shell" if terminal else "a shell without a terminal"
    text = shlex.join(command)
    if len(text) > _COMMAND_CHARACTERS_MAX:
        text = text[: _COMMAND_CHARACTERS_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return f"command `{text}`"


def end_text(reason: HandsOnEndReason.ValueType, exit_status: ExitStatus | None, detail: str) -> str:
    """Say how a session ended: "exit code 1", "ended with the attempt"."""
    if exit_status is not None and exit_status.signal:
        words = f"ended by signal {exit_status.signal}"
    elif exit_status is not None:
        words = f"exit code {exit_status.exit_code}"
    else:
        words = _END_WORDS.get(reason, "ended")
    return f"{words}: {detail}" if detail else words


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
