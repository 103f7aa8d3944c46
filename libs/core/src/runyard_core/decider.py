"""The shape of every domain: decide, evolve, fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

State = TypeVar("State")
Event = TypeVar("Event")
Command = TypeVar("Command")


@dataclass(frozen=True, slots=True)
class Decider(Generic[State, Command, Event]):
    """The three pure parts of one stream category.

    ``decide`` gives the events that a command makes, an empty list when it is already so, and raises
    ``Rejected`` when the domain says no. ``evolve`` is total: an event it does not know leaves the
    state as it is. Time, ids and prices come in with the command.
    """

    initial: State
    decide: Callable[[State, Command], list[Event]]
    evolve: Callable[[State, Event], State]

    def fold(self, events: Iterable[Event], state: State | None = None) -> State:
        """Replay events over a state, from the initial one when none is given."""
        current = self.initial if state is None else state
        for event in events:
            current = self.evolve(current, event)
        return current
