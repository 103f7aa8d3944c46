"""From anything that goes wrong to one or two lines and an exit code. Never a traceback."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

from runyard_cli import output

if TYPE_CHECKING:
    from runyard_client import ClientError


# The yard answered, and one of its machines did not.
_OF_A_NODE = frozenset({"AGENT_LOST", "NODE_UNREACHABLE"})

_ADVICE = {
    "RUN_NOT_FOUND": "A number or `latest` is of this folder's project; "
    "--project NAME or NAME#12 of another.",
    "VERTEX_NOT_FOUND": "No run made or used it, and nobody put it here: `runyard ps` names runs, "
    "and a file of which one byte was changed is another file.",
}


class ExitCode(IntEnum):
    """What a script can tell from the exit code."""

    DONE = 0
    FAILED = 1
    """The run (or check) failed."""
    USAGE = 2
    """Wrong usage: a wrong option, step, parameter or file."""
    REFUSED = 3
    """Refused or not found."""
    UNREACHABLE = 4
    """A service does not answer."""
    BUG = 70
    """A mistake in this program."""
    INTERRUPTED = 130
    """Ctrl-C."""


def fail(exit_code: ExitCode, reason: str, message: str, advice: str = "") -> NoReturn:
    """Say what went wrong and end.

    Args:
        exit_code: for scripts.
        reason: stable reason code.
        message: what and where.
        advice: what to do next, on a line of its own.
    """
    if output.is_json():
        error = {"reason": reason, "message": message, "advice": advice, "exit_code": int(exit_code)}
        output.note(json.dumps({"error": error}, ensure_ascii=False))
    else:
        output.note(f"Error: {output.safe(message)} [{reason}]")
        if advice:
            output.note(output.safe(advice))
    raise SystemExit(int(exit_code))


def explain_client_error(error: ClientError) -> NoReturn:
    """End with what a ``ClientError`` says."""
    from runyard_client.errors import LocalError, Unreachable, UnreachableElsewhere

    if isinstance(error, Unreachable):
        advice = "Is the yard up? `runyard status` shows each process, `runyard up` starts it."
        if isinstance(error, UnreachableElsewhere):
            advice = "It is on another machine: is it up there, with a gate, and is that port open from here?"
        if error.reason in _OF_A_NODE:
            advice = "`runyard nodes` shows which machines are heard from."
        fail(ExitCode.UNREACHABLE, error.reason, error.message, advice)
    if isinstance(error, LocalError):
        if error.reason == "NO_CONTEXT":
            fail(ExitCode.UNREACHABLE, error.reason, error.message, _advice_without_yard())
        fail(ExitCode.USAGE, error.reason, error.message)
    advice = ""
    if error.code == "UNAUTHENTICATED":
        advice = (
            "On the yard's machine, `runyard people invite` makes another; `runyard context enter` takes it."
        )
    elif error.reason in _ADVICE:
        advice = _ADVICE[error.reason]
    elif error.field_violations:
        new = {field: what for field, what in error.field_violations.items() if what not in error.message}
        advice = "; ".join(f"{field}: {what}" for field, what in new.items())
    fail(ExitCode.REFUSED, error.reason, error.message, advice)


def _advice_without_yard() -> str:
    from runyard_client import runyard_home

    if any(runyard_home().glob("imported-*.sqlite")):
        return "It holds an imported log: `runyard history`, `trace` and `impact` look into that."
    return ""
