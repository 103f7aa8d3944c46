"""Whatever becomes of a worker, its watchers hear of it and its service goes on."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard.projection.v1 import types_pb2 as pb
from runyard_core.errors import Unavailable
from runyard_core.projection import Projection
from runyard_eventlog.rebuild import Subject
from runyard_servicekit.projection_jobs import STARTS_MAX, ProjectionJobs, RunningJob


class Named:
    name = "stories"


SUBJECT = Subject("cost", "cost", cast("Projection[Any]", Named()), Lane.LANE_DOMAIN)
BEGUN = pb.RebuildProgress(projection="stories", phase=pb.REBUILD_PHASE_FILLING)


class ScriptedJobs(ProjectionJobs):
    """Workers that come to a position each time they are started, and end."""

    def __init__(self, *positions: int) -> None:
        super().__init__("", "")
        self.starts = 0
        self._positions = positions

    async def _run_worker(self, subject: Subject, mode: str, job: RunningJob) -> int:
        self.starts += 1
        position = self._positions[min(self.starts, len(self._positions)) - 1]
        if position < 0:
            raise ValueError("not what a worker says")
        await job.set(pb.RebuildProgress(phase=pb.REBUILD_PHASE_FILLING, position=position))
        return -9


async def ended(jobs: ScriptedJobs) -> pb.RebuildProgress:
    async with asyncio.timeout(20), jobs.working():
        return [progress async for progress in jobs.start(SUBJECT, "rebuild", BEGUN).watch()][-1]


async def test_a_worker_that_comes_further_each_time_is_started_again() -> None:
    jobs = ScriptedJobs(10, 20, 30, 40)
    last = await ended(jobs)
    assert jobs.starts == 4 + STARTS_MAX
    assert (last.phase, last.reason, last.position) == (pb.REBUILD_PHASE_FAILED, "WORKER_ENDED", 40)


async def test_a_worker_that_says_what_cannot_be_read_does_not_end_its_service() -> None:
    jobs = ScriptedJobs(-1)
    last = await ended(jobs)
    assert jobs.starts == STARTS_MAX
    assert last.reason == "WORKER_ENDED"
    assert jobs.running("stories", "rebuild") is None


async def test_a_job_waits_until_the_service_takes_jobs() -> None:
    with pytest.raises(Unavailable) as refused:
        ScriptedJobs(1).start(SUBJECT, "verify", BEGUN)
    assert refused.value.code == "STARTING"
