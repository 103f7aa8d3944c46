"""``python -m runyard_eventlog.rebuild_worker``: one rebuild or verification, in a process of its own.

A service starts it, so that folding the log takes nothing from its queries. The first line of standard input
is the job as JSON; when standard input ends, the service is gone and the worker goes too. Standard output has
a line of JSON for each progress. A worker that is killed is started again and goes on from its checkpoint.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import asyncpg
from google.protobuf import json_format

from runyard.event.v1.envelope_pb2 import Lane
from runyard.projection.v1.types_pb2 import RebuildProgress
from runyard_core.clock import SystemClock
from runyard_core.errors import RunyardError, Unavailable
from runyard_core.projection import Projection
from runyard_core.retry import Backoff, Retries, retried
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.collector import keep_memory, set_collector
from runyard_eventlog.connections import AWAY, kept_open
from runyard_eventlog.projection_store import PlaceMovedError
from runyard_eventlog.rebuild import Rebuilder, Subject
from runyard_eventlog.rebuild_progress import ProgressMeter

CONNECTIONS_MAX = 8
CONNECT_SECONDS_MAX = 10.0
BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0, tries_max=60)
"""For a database that is away."""
JOB_BYTES_MAX = 64 * 1024
NICENESS = 5
"""Queries of the service come first."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker shall do."""

    mode: Literal["rebuild", "verify"]
    database_url: str
    archive_url: str
    projection: str
    """"module:class"; made without arguments."""
    service: str
    schema: str
    lane: int
    begun: str
    """The progress to start with, as protobuf JSON."""

    def line(self) -> bytes:
        """Write it as the worker reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def class_name(projection: Projection[Any]) -> str:
    """Name the class of a projection for ``Job.projection``."""
    return f"{type(projection).__module__}:{type(projection).__qualname__}"


def main() -> int:
    """Do the job on standard input; 0 when its last progress says how it ended."""
    os.nice(NICENESS)
    set_collector()
    keep_memory()
    return asyncio.run(_work())


async def _work() -> int:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=JOB_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    job = Job(**json.loads(await reader.readline()))
    begun = json_format.Parse(job.begun, RebuildProgress())
    meter = ProgressMeter(begun, SystemClock(), _say)
    work = asyncio.ensure_future(_do(job, meter))
    parent = asyncio.ensure_future(reader.read())
    done, _ = await asyncio.wait((work, parent), return_when=asyncio.FIRST_COMPLETED)
    if work not in done:
        work.cancel()
        await asyncio.wait((work,))
        return 1
    parent.cancel()
    work.result()
    return 0


async def _do(job: Job, meter: ProgressMeter) -> None:
    # The place moves when a worker that was believed dead finishes its last transaction.
    passing = (*AWAY, Unavailable, PlaceMovedError)
    try:
        await retried(lambda: _try(job, meter), passing, Retries(job.mode, BACKOFF, _log))
    except RunyardError as error:
        meter.failed(error)
    except (*AWAY, PlaceMovedError) as error:
        meter.failed(Unavailable(f"the database does not answer: {error}", code="DATABASE_UNREACHABLE"))


async def _try(job: Job, meter: ProgressMeter) -> None:
    module, _, name = job.projection.partition(":")
    projection = cast("Projection[Any]", getattr(importlib.import_module(module), name)())
    subject = Subject(job.service, job.schema, projection, cast("Lane.ValueType", job.lane))
    async with (
        kept_open(
            asyncpg.create_pool(
                job.database_url, min_size=1, max_size=CONNECTIONS_MAX, timeout=CONNECT_SECONDS_MAX
            )
        ) as pool,
        open_event_log(pool, job.archive_url) as log,
    ):
        rebuilder = Rebuilder(pool, log, subject, meter, SystemClock())
        await (rebuilder.rebuild() if job.mode == "rebuild" else rebuilder.verify())


def _say(progress: RebuildProgress) -> None:
    sys.stdout.write(json_format.MessageToJson(progress, indent=None) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
