"""Given these events, when this command comes, then these events follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from runyard_core.decider import Decider
from runyard_core.errors import Rejected

State = TypeVar("State")
Command = TypeVar("Command")
Event = TypeVar("Event")


@dataclass(frozen=True, slots=True)
class Scenario(Generic[State, Command, Event]):
    """A decider with a history."""

    decider: Decider[State, Command, Event]
    history: tuple[Event, ...]

    @property
    def state(self) -> State:
        """Give the state that the history leads to."""
        return self.decider.fold(self.history)

    def when(self, command: Command) -> Outcome[State, Command, Event]:
        """Let the decider decide."""
        try:
            return Outcome(self, tuple(self.decider.decide(self.state, command)), None)
        except Rejected as rejected:
            return Outcome(self, (), rejected)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[State, Command, Event]):
    """What the decider said."""

    scenario: Scenario[State, Command, Event]
    events: tuple[Event, ...]
    rejected: Rejected | None

    def then(self, *expected: Event) -> Scenario[State, Command, Event]:
        """Check the events, whole and in order, and go on with them in the history."""
        __tracebackhide__ = True
        if self.rejected is not None:
            raise AssertionError(
                f"rejected: {self.rejected.code}: {self.rejected.message}"
            ) from self.rejected
        assert list(self.events) == list(expected)
        following = Scenario(self.scenario.decider, (*self.scenario.history, *self.events))
        _ = following.state  # what it decides it must also be able to take in
        return following

    def then_nothing(self) -> Scenario[State, Command, Event]:
        """Check that it was so already: accepted, without an event."""
        return self.then()

    def then_rejected(self, code: str) -> Rejected:
        """Check the refusal by its stable code and give it, for its details."""
        __tracebackhide__ = True
        assert self.rejected is not None, f"accepted, with {list(self.events)}"
        assert self.rejected.code == code
        return self.rejected


def given(decider: Decider[State, Command, Event], *history: Event) -> Scenario[State, Command, Event]:
    """Start a scenario from the events that have happened."""
    return Scenario(decider, history)
