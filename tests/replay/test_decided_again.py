"""Today's code decides what was recorded as it was decided then; a change of a rule shows here."""

from __future__ import annotations

import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.deciding import by_command, installed_deciders
from runyard_scheduler.process.deciding_again import SchedulerDeciders
from tests.replay.record import INCIDENTS
from tests.replay.runbooks import HISTORIES, imported, printed_by
from tests.replay.test_histories import events_of

pytestmark = pytest.mark.system


@pytest.mark.parametrize("name", sorted(INCIDENTS))
def test_recorded_incidents_are_decided_the_same_today(name: str) -> None:
    deciders = SchedulerDeciders()
    events = map(RecordedEvent, events_of(HISTORIES / name, Lane.LANE_DOMAIN))
    decisions = [decision for group in by_command(events) for decision in deciders.decide_again(group)]
    assert len(decisions) > 20
    assert [decision for decision in decisions if decision.differences or decision.not_decided] == []


def test_the_scheduler_offers_its_deciders() -> None:
    assert [type(deciders) for deciders in installed_deciders()] == [SchedulerDeciders]


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    commands = ("", "lab", "lab#2", "nobody", "lab#2 --at 20", "--prices x")
    with imported(HISTORIES / "lost-node") as home:
        return {words: printed_by(f"runyard history what-if {words} --decide", home) for words in commands}


def test_what_if_decides_for_the_yard_a_project_or_a_run(printed: dict[str, str]) -> None:
    assert printed[""].startswith("37 decisions up to position 45 made again: 37 the same, 0 otherwise")
    assert printed["lab"].startswith("34 decisions")
    assert printed["lab#2"].startswith("21 decisions")
    assert printed["lab#2 --at 20"].startswith("7 decisions up to position 20")


def test_what_if_refuses_what_it_cannot_do(printed: dict[str, str]) -> None:
    assert "[PROJECT_NOT_FOUND]" in printed["nobody"]
    assert "[WRONG_USAGE]" in printed["--prices x"]
