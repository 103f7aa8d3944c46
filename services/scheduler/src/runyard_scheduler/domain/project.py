"""Stream ``project-<name>``: gives each run the project's next number, and tells of its secrets by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

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


@dataclass(frozen=True, slots=True)
class SetSecret:
    """Tell that a secret gets a value; the project is created when it does not exist."""

    project: str
    name: str
    replaced: bool


@dataclass(frozen=True, slots=True)
class RemoveSecret:
    """Tell that a secret is taken away."""

    project: str
    name: str


ProjectCommand = NumberRun | SetSecret | RemoveSecret


def decide(project: Project, command: ProjectCommand) -> list[Message]:
    """Give the events that a command makes."""
    decided = _decided(project, command)
    return [decided] if project.name else [ev.ProjectCreated(project=command.project), decided]


def _decided(project: Project, command: ProjectCommand) -> Message:
    match command:
        case NumberRun():
            return ev.ProjectRunNumbered(
                project=command.project, run_id=command.run_id, number=project.last_number + 1
            )
        case SetSecret():
            return ev.ProjectSecretSet(project=command.project, name=command.name, replaced=command.replaced)
        case RemoveSecret():
            return ev.ProjectSecretRemoved(project=command.project, name=command.name)
        case _:
            assert_never(command)


def evolve(project: Project, event: Message) -> Project:
    """Give the state after an event; one that this code does not know leaves it as it is."""
    match event:
        case ev.ProjectCreated():
            return replace(project, name=event.project)
        case ev.ProjectRunNumbered():
            return replace(project, last_number=event.number)
        case _:
            return project


PROJECT: Decider[Project, ProjectCommand, Message] = Decider(initial=Project(), decide=decide, evolve=evolve)
