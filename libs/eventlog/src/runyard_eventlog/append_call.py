"""The call of the log's append function: commands to its arguments, its rows to answers."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from runyard_contracts.ids import Position
from runyard_core.errors import RunyardError
from runyard_eventlog import refusals
from runyard_eventlog.admission import AdmittedCommand
from runyard_eventlog.port import Appended

APPEND = """
select command, outcome, first_position, positions, stream, expected, actual, event_id
from log.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""


def append_arguments(commands: Sequence[AdmittedCommand]) -> tuple[object, ...]:
    """Give the arguments of ``log.append`` in its order."""
    events = [event for command in commands for event in command.events]
    return (
        int(commands[0].lane),
        [command.command_id for command in commands],
        [command.digest for command in commands],
        [index for index, command in enumerate(commands, start=1) for _ in command.events],
        *zip(*events, strict=True),
    )


def append_answers(
    commands: Sequence[AdmittedCommand], rows: list[asyncpg.Record]
) -> list[Appended | RunyardError]:
    """Bring the rows of ``log.append`` back into answers, in the order of the commands."""
    special = {row[0]: row for row in rows}
    # The row of no command says where the commands without a row of their own begin.
    following = special[None]["first_position"] if None in special else 0
    answers: list[Appended | RunyardError] = []
    for index, command in enumerate(commands, start=1):
        if index in special:
            answers.append(_special_answer(command, special[index]))
            continue
        positions: tuple[Position, ...] = tuple(range(following, following + len(command.events)))  # type: ignore[arg-type]
        following += len(command.events)
        answers.append(Appended(positions[-1], positions))
    return answers


def _special_answer(command: AdmittedCommand, row: asyncpg.Record) -> Appended | RunyardError:
    command_id = command.command_id
    match row["outcome"]:
        case "repeated":
            positions: tuple[Position, ...] = tuple(row["positions"])
            return Appended(positions[-1], positions, repeated=True)
        case "conflict":
            return refusals.conflict(row["stream"], row["expected"], row["actual"])
        case "denied":
            return refusals.denied(row["stream"])
        case "command_reused":
            return refusals.command_reused(command_id, row["first_position"])
        case "event_reused":
            return refusals.event_reused(str(row["event_id"]), row["first_position"], command_id)
        case "partly_known":
            return refusals.events_partly_known(command_id, len(row["positions"]), len(command.events))
        case outcome:
            raise AssertionError(f"the append function said {outcome!r}")
