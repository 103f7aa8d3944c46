"""``runyard history tail -f`` over the restart of a service, and what is said to who leaves a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.history.v1.history_service_pb2 import EventView, WatchEventsRequest
from runyard.run.v1.types_pb2 import Run
from runyard_cli.commands import history
from runyard_cli.follow import Follower, follow_to_end
from runyard_cli.history.source import Source
from runyard_client import Client
from runyard_client.errors import Unreachable


class Restarted:
    """A service that goes away after each event, and is away for some tries."""

    def __init__(self, newest: int, away: int) -> None:
        self.newest = newest
        self.away = away
        self.asked: list[int] = []

    async def watch_events(self, request: WatchEventsRequest) -> AsyncIterator[EventView]:
        self.asked.append(request.after_position)
        if self.away:
            self.away -= 1
        elif request.after_position < self.newest:
            yield EventView(envelope=Envelope(position=request.after_position + 1))
        else:
            return
        raise Unreachable("UNAVAILABLE", "UNAVAILABLE", "lineage does not answer")


async def positions(service: Restarted) -> list[int]:
    watch = WatchEventsRequest(after_position=2)
    return [view.envelope.position async for view in history.followed(cast("Source", service), watch)]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_seconds: float) -> None: ...

    monkeypatch.setattr(asyncio, "sleep", at_once)


async def test_no_event_is_missed_or_said_twice_when_a_service_is_away(
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = Restarted(newest=5, away=3)
    assert await positions(service) == [3, 4, 5]
    assert service.asked == [2, 2, 2, 2, 3, 4, 5]
    # Once for each time that it went away, not for each try.
    said = capsys.readouterr().err
    assert said.count("following the log: lineage does not answer") == 4


async def test_a_service_that_is_away_for_long_is_still_asked() -> None:
    assert await positions(Restarted(newest=3, away=500)) == [3]


@pytest.mark.parametrize(("project", "name"), [("digits", "7"), ("faces", "faces#7")])
async def test_who_leaves_a_run_that_was_just_queued_is_told_that_it_goes_on(
    project: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupted(_: Follower) -> Run:
        raise asyncio.CancelledError

    monkeypatch.setenv("RUNYARD_PROJECT", "digits")
    monkeypatch.setattr(Follower, "follow", interrupted)
    with pytest.raises(asyncio.CancelledError):
        await follow_to_end(cast("Client", None), Run(project=project, number=7))
    assert capsys.readouterr().err == (
        f"\n{project}#7 goes on: `runyard logs -f {name}` follows it again, `runyard stop {name}` ends it\n"
    )
