from __future__ import annotations

from dataclasses import dataclass

import pytest

from runyard_core.decider import Decider
from runyard_core.errors import Rejected
from runyard_testkit import given


@dataclass(frozen=True, slots=True)
class Opened:
    name: str


@dataclass(frozen=True, slots=True)
class Open:
    name: str


def decide(state: frozenset[str], command: Open) -> list[Opened]:
    if command.name == "cellar":
        raise Rejected("the cellar stays shut", code="CELLAR_SHUT")
    return [] if command.name in state else [Opened(command.name)]


def evolve(state: frozenset[str], event: Opened) -> frozenset[str]:
    return state | {event.name}


doors: Decider[frozenset[str], Open, Opened] = Decider(frozenset(), decide, evolve)


def test_the_events_of_an_outcome_become_history() -> None:
    after = given(doors, Opened("attic")).when(Open("porch")).then(Opened("porch"))
    assert after.state == {"attic", "porch"}
    after.when(Open("porch")).then_nothing()


def test_a_refusal_is_checked_by_its_code() -> None:
    rejected = given(doors).when(Open("cellar")).then_rejected("CELLAR_SHUT")
    assert rejected.message == "the cellar stays shut"


def test_other_events_than_expected_fail() -> None:
    with pytest.raises(AssertionError):
        given(doors).when(Open("porch")).then(Opened("attic"))
    with pytest.raises(AssertionError):
        given(doors).when(Open("porch")).then()


def test_a_refusal_where_events_were_expected_fails_and_an_acceptance_where_a_refusal_was() -> None:
    with pytest.raises(AssertionError, match="CELLAR_SHUT"):
        given(doors).when(Open("cellar")).then_nothing()
    with pytest.raises(AssertionError, match="accepted"):
        given(doors).when(Open("porch")).then_rejected("CELLAR_SHUT")
