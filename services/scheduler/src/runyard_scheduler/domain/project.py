"""Stream ``project-<name>``: gives each run the project's next number."""

from __future__ import annotations

from dataclasses import dataclass, replace

from google.protobuf.message import Message

from runyard.run.v1 import events_pb2 as ev
from runyard_contracts.ids import RunId
from runyard_core.decider import Decider


@dataclass(frozen=True, slots=True)
class Project:
    """What decisions need to know of one project."""

    name: str = ""
    """Empty before the project exists."""
    last_number: int = 0


@dataclass(frozen=True, slots=True)
class NumberRun:
    """Give a run the next number; the project is created when it does not exist."""

    project: str
    run_id: RunId


def decide(project: Project, command: NumberRun) -> list[Message]:
    """Give the events that a command makes."""
    numbered = ev.ProjectRunNumbered(
        project=command.project, run_id=command.run_id, number=project.last_number + 1
    )
    return [numbered] if project.name else [ev.ProjectCreated(project=command.project), numbered]


def evolve(project: Project, event: Message) -> Project:
    """Give the state after an event; one that this code does not know leaves it as it is."""
    match event:
        case ev.ProjectCreated():
            return replace(project, name=event.project)
        case ev.ProjectRunNumbered():
            return replace(project, last_number=event.number)
        case _:
            return project


PROJECT: Decider[Project, NumberRun, Message] = Decider(initial=Project(), decide=decide, evolve=evolve)
