"""Table ``project``: one row for each event of a project, with its last run number."""

from __future__ import annotations

from dataclasses import dataclass

from runyard.run.v1 import events_pb2 as ev
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import TableSpec


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project as of a position."""

    project: str
    position: int
    version: int
    """Version of the project's stream."""
    last_number: int


PROJECTS = TableSpec(name="project", row_class=ProjectRow, key=("project",))


def project_row(before: ProjectRow | None, project: str, event: RecordedEvent) -> ProjectRow:
    """Give the row after an event of a project's stream."""
    message = event.message
    number = 0 if before is None else before.last_number
    if isinstance(message, ev.ProjectRunNumbered):
        number = message.number
    return ProjectRow(project, event.position, event.envelope.stream_version, number)
