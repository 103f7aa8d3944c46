"""Hands-on sessions in words, for whoever shows them: a record, a timeline."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from runyard.run.v1.hands_on_pb2 import ExitStatus, HandsOnEndReason

_COMMAND_CHARACTERS_MAX = 80
_END_WORDS = {
    HandsOnEndReason.HANDS_ON_END_REASON_CLIENT_LEFT: "closed by its user",
    HandsOnEndReason.HANDS_ON_END_REASON_ATTEMPT_ENDED: "ended with the attempt",
    HandsOnEndReason.HANDS_ON_END_REASON_IDLE: "ended, as nothing passed for long",
    HandsOnEndReason.HANDS_ON_END_REASON_AGENT_LOST: "ended with its agent",
    HandsOnEndReason.HANDS_ON_END_REASON_SCHEDULER_STOPPED: "ended with the scheduler",
    HandsOnEndReason.HANDS_ON_END_REASON_FAILED: "failed",
}


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
