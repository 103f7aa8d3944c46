"""The errors of an append, written once so that every implementation of the log says the same."""

from __future__ import annotations

from runyard_contracts.ids import stream_category
from runyard_core.errors import Conflict, IdReused, PermissionDenied


def conflict(stream: str, expected: int, actual: int) -> Conflict:
    """The stream moved on since it was read."""
    return Conflict(
        f"stream {stream} is at version {actual}, not {expected}: read it again and decide again",
        code="WRONG_VERSION",
        metadata={"stream": stream, "expected": str(expected), "actual": str(actual)},
    )


def denied(stream: str) -> PermissionDenied:
    """The caller's role does not own the stream's category."""
    return PermissionDenied(
        f"this role may not append to stream {stream}: category {stream_category(stream)!r} is not its own",
        code="NOT_YOUR_CATEGORY",
        metadata={"stream": stream},
    )


def command_reused(command_id: str, position: int) -> IdReused:
    """The command id is known with other content."""
    return IdReused(
        f"command {command_id} was appended with other content (last event at position {position}): "
        "a new request needs a new id",
        code="COMMAND_ID_REUSED",
        metadata={"command_id": command_id, "position": str(position)},
    )


def event_reused(event_id: str, position: int, command_id: str) -> IdReused:
    """The event id is known with other content."""
    return IdReused(
        f"event {event_id} of command {command_id} is at position {position} with other content",
        code="EVENT_ID_REUSED",
        metadata={"event_id": event_id, "command_id": command_id, "position": str(position)},
    )


def events_partly_known(command_id: str, known_count: int, count: int) -> IdReused:
    """Some events of the command are in the log already, others are not."""
    return IdReused(
        f"{known_count} of the {count} events of command {command_id} are in the log under another command",
        code="EVENTS_PARTLY_KNOWN",
        metadata={"command_id": command_id},
    )
