"""A port that was chosen free may be taken before its process listens: the yard starts again with another."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runyard_embedded import supervise
from runyard_embedded.home import Home
from runyard_embedded.plan import Plan
from runyard_embedded.settings import YardSettings
from runyard_embedded.state import YardState
from runyard_engines import PortInUse
from runyard_engines.ports import require_free


class Rival:
    """Takes the artifact service's port as soon as it is chosen, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.plans: list[Plan] = []
        self._held = ExitStack()

    def supervisor(self, plan: Plan, *_: Any) -> Rival:
        self.plans.append(plan)
        if len(self.plans) <= self.times:
            self._held.enter_context(socket.create_server(("127.0.0.1", self.port(plan))))
        return self

    async def run(self) -> None:
        require_free("artifact", [self.port(self.plans[-1])])

    @staticmethod
    def port(plan: Plan) -> int:
        return int(plan.addresses.services["artifact"].rpartition(":")[2])

    def leave(self) -> None:
        self._held.close()


@pytest.fixture
def rival(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rival]:
    rival = Rival(request.param)
    monkeypatch.setattr(supervise, "Supervisor", rival.supervisor)
    yield rival
    rival.leave()


def supervised(folder: Path) -> list[YardState]:
    published: list[YardState] = []
    supervise.supervise(Home(folder), YardSettings(), published.append)
    return published


@pytest.mark.parametrize("rival", [1, supervise.STARTS_MAX - 1], indirect=True)
def test_a_port_that_somebody_else_took_is_chosen_anew(rival: Rival, tmp_path: Path) -> None:
    assert not any(state.error for state in supervised(tmp_path / "yard"))
    ports = [rival.port(plan) for plan in rival.plans]
    assert len(set(ports)) == len(ports) == rival.times + 1


@pytest.mark.parametrize("rival", [supervise.STARTS_MAX], indirect=True)
def test_a_yard_whose_ports_are_taken_again_and_again_says_so(rival: Rival, tmp_path: Path) -> None:
    with pytest.raises(PortInUse, match="artifact cannot listen on"):
        supervised(tmp_path / "yard")
