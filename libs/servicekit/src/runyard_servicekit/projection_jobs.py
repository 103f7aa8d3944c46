"""Rebuilds and verifications of a service's read models, each in a worker process beside the service."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import structlog
from google.protobuf import json_format

from runyard.projection.v1.types_pb2 import RebuildPhase, RebuildProgress
from runyard_core.errors import Unavailable
from runyard_core.task_group import TaskGroup
from runyard_eventlog.rebuild import Subject
from runyard_eventlog.rebuild_worker import Job, class_name

ENDED = frozenset(
    {
        RebuildPhase.REBUILD_PHASE_DONE,
        RebuildPhase.REBUILD_PHASE_DIFFERS,
        RebuildPhase.REBUILD_PHASE_FAILED,
    }
)

STARTS_MAX = 3
"""How often a worker that was killed is started again without having come further."""
LINE_BYTES_MAX = 4 * 1024 * 1024

Mode = Literal["rebuild", "verify"]

log = structlog.get_logger("runyard.projections")


class RunningJob:
    """The newest progress of a job, for any number of watchers."""

    def __init__(self, progress: RebuildProgress) -> None:
        """Begin with what names the job."""
        self.progress = progress
        self.worker_pid = 0
        self._changed = asyncio.Condition()

    async def set(self, progress: RebuildProgress) -> None:
        """Tell watchers how far it is."""
        async with self._changed:
            self.progress = progress
            self._changed.notify_all()

    async def watch(self) -> AsyncGenerator[RebuildProgress, None]:
        """Give the newest progress whenever it changed; ends with the job. A slow watcher misses some."""
        seen: RebuildProgress | None = None
        while seen is None or seen.phase not in ENDED:
            async with self._changed:
                while self.progress is seen:
                    await self._changed.wait()
                seen = self.progress
            yield seen


class ProjectionJobs:
    """Starts workers, restarts killed ones, and ends them with the service."""

    def __init__(self, database_url: str, archive_url: str) -> None:
        """Workers connect as the service does."""
        self._database_url = database_url
        self._archive_url = archive_url
        self._running: dict[tuple[str, Mode], RunningJob] = {}
        self._group: TaskGroup | None = None

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Take jobs while the block runs; it ends when it is cancelled, and all workers with it."""
        async with TaskGroup() as group:
            self._group = group
            yield

    def running(self, projection: str, mode: Mode) -> RunningJob | None:
        """Give the job of a read model that goes on."""
        return self._running.get((projection, mode))

    def start(self, subject: Subject, mode: Mode, begun: RebuildProgress) -> RunningJob:
        """Start a job, or join the same one.

        Raises:
            Unavailable: the service is just starting or stopping.
        """
        key = (subject.projection.name, mode)
        if key in self._running:
            return self._running[key]
        if self._group is None:
            raise Unavailable("the service is starting; ask again", code="STARTING")
        job = self._running[key] = RunningJob(begun)
        task = self._group.create_task(self._work(subject, mode, job), name=f"{mode} {key[0]}")
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return job

    async def _work(self, subject: Subject, mode: Mode, job: RunningJob) -> None:
        starts_left = STARTS_MAX
        while True:
            position = job.progress.position
            code = -1
            try:
                code = await self._run_worker(subject, mode, job)
            except Exception:  # the top of a job: whatever a worker does, its service goes on
                log.exception("worker failed", projection=subject.projection.name, mode=mode)
            if job.progress.phase in ENDED:
                return
            starts_left = STARTS_MAX if job.progress.position > position else starts_left - 1
            log.warning("worker ended", projection=subject.projection.name, mode=mode, exit_code=code)
            if not starts_left:
                ended = RebuildProgress.FromString(job.progress.SerializeToString())
                ended.phase = RebuildPhase.REBUILD_PHASE_FAILED
                ended.reason = "WORKER_ENDED"
                ended.message = f"its process ended with {code}, again and again; asked again, it goes on"
                await job.set(ended)
                return

    async def _run_worker(self, subject: Subject, mode: Mode, job: RunningJob) -> int:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "runyard_eventlog.rebuild_worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        job.worker_pid = worker.pid
        if worker.stdin is None or worker.stdout is None:
            raise RuntimeError("a worker without pipes")
        try:
            # Over the pipe, because a command line can be seen by everybody on the machine.
            worker.stdin.write(self._job(subject, mode, job.progress).line())
            await worker.stdin.drain()
            async for line in worker.stdout:
                await job.set(json_format.Parse(line, RebuildProgress()))
            return await worker.wait()
        except (BrokenPipeError, ConnectionResetError):
            return await worker.wait()
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()

    def _job(self, subject: Subject, mode: Mode, progress: RebuildProgress) -> Job:
        return Job(
            mode=mode,
            database_url=self._database_url,
            archive_url=self._archive_url,
            projection=class_name(subject.projection),
            service=subject.service,
            schema=subject.schema,
            lane=subject.lane,
            begun=json_format.MessageToJson(progress, indent=None),
        )
