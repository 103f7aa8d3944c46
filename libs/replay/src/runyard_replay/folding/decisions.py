"""A recorded decision that was made again, and what came out otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from runyard.history.v1.history_service_pb2 import FieldChange


@dataclass(frozen=True, slots=True)
class Decision:
    """One recorded decision, made again."""

    position: int
    """Of the first event that it came to."""
    stream: str
    command: str
    """The kind of the rebuilt command: "Grant", "MarkUnreachable"; "Placement" for the planner's choice."""
    recorded: tuple[str, ...]
    """Types of the events that it came to."""
    run_id: str = ""
    project: str = ""
    differences: tuple[FieldChange, ...] = ()
    """What today's code decides otherwise: before is what was recorded, after is today's."""
    not_decided: str = ""
    """Why it could not be decided again; empty when it was."""
