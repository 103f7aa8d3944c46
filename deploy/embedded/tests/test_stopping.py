"""What trains is stopped before the yard is, however much it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import pytest

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.run.v1 import scheduler_service_pb2 as pb
from runyard.run.v1.types_pb2 import Run, RunState
from runyard_client import Client
from runyard_embedded.stopping import ACTIVE_STATES, stop_runs

PAGE = 2


class Scheduler:
    """Knows some runs of each state, gives two at a time, and ends those that are stopped."""

    def __init__(self, count: int) -> None:
        self.scheduler = self
        self.states = {
            f"{state}-{number}": RunState.Value(f"RUN_STATE_{state}")
            for state in (*ACTIVE_STATES, "QUEUED", "FINISHED")
            for number in range(count)
        }
        self.stopped: list[str] = []
        self.watched: list[str] = []

    async def ListRuns(self, request: pb.ListRunsRequest) -> pb.ListRunsResponse:
        state = RunState.Value(request.filter.replace("state=", "RUN_STATE_"))
        names = [name for name, its in self.states.items() if its == state]
        first = int(request.page_token or 0)
        after = first + PAGE
        runs = [Run(run_id=name, state=state, position=7) for name in names[first:after]]
        return pb.ListRunsResponse(runs=runs, next_page_token=str(after) if after < len(names) else "")

    async def StopRun(self, request: pb.StopRunRequest) -> pb.StopRunResponse:
        assert request.request_id
        self.stopped.append(request.name)
        return pb.StopRunResponse()

    async def WatchRuns(self, request: pb.WatchRunsRequest) -> AsyncIterator[pb.WatchRunsResponse]:
        assert len(self.stopped) == len(set(self.stopped))
        self.watched.append(request.name)
        yield pb.WatchRunsResponse(bookmark_position=8)
        self.states[request.name] = RunState.RUN_STATE_FINISHED
        yield pb.WatchRunsResponse(event=Envelope(position=9))
        pytest.fail(f"{request.name} has finished")

    async def GetRun(self, request: pb.GetRunRequest) -> pb.GetRunResponse:
        assert request.read.min_position == 9
        return pb.GetRunResponse(run=Run(run_id=request.name, state=self.states[request.name]))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
async def test_every_run_that_trains_is_stopped_and_waited_for(count: int) -> None:
    yard = Scheduler(count)
    await stop_runs(cast("Client", yard))
    training = {f"{state}-{number}" for state in ACTIVE_STATES for number in range(count)}
    assert set(yard.stopped) == set(yard.watched) == training
