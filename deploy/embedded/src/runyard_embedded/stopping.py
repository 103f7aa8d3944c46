"""Ends a yard: what trains, then the supervisor, which ends everything else in order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.event.v1.read_pb2 import ReadOptions
from runyard.run.v1.scheduler_service_pb2 import (
    GetRunRequest,
    ListRunsRequest,
    StopRunRequest,
    WatchRunsRequest,
)
from runyard.run.v1.types_pb2 import Run, RunState
from runyard_cli.pages import PAGE_SIZE, every_page
from runyard_client import Client, ClientError, load_context
from runyard_contracts.ids import uuid7
from runyard_core.errors import Unavailable
from runyard_embedded.home import Home
from runyard_embedded.state import read_state
from runyard_engines import ProcessIdentity
from runyard_engines.process import started_ticks, wait_for_exit

STOP_RUN_SECONDS_MAX = 30.0
"""Longest wait for programs that were asked to end: their own grace is part of it."""
SUPERVISOR_SECONDS_MAX = 45.0
KILL_SECONDS_MAX = 5.0
SHIMS = frozenset({"shim.py", "container_watch.py"})
"""Programs of the agent that stay with an attempt when the agent ends."""
ACTIVE_STATES = ("STARTING", "RUNNING", "STOPPING", "FINISHING")


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """An attempt that trains on this machine, known by its shim."""

    shim: ProcessIdentity
    folder: Path
    """The shim's state folder."""

    @property
    def label(self) -> str:
        """Name the attempt: run id and number of the attempt."""
        return self.folder.parent.name

    def run_name(self) -> str:
        """Name its run as people do, "digits#3", from what the agent keeps of it; else as ``label``."""
        try:
            grant = LeaseGrant.FromString((self.folder.parent / "record" / "grant.pb").read_bytes())
        except (OSError, DecodeError):
            return self.label
        return f"{grant.project}#{grant.number}"


def running_attempts(home: Home) -> list[RunningAttempt]:
    """Find the shims of this home's agent, also when no service can be asked."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        folder = _state_folder(process, home.agent)
        ticks = started_ticks(int(process.name)) if folder else None
        if folder is not None and ticks is not None:
            found.append(RunningAttempt(ProcessIdentity(int(process.name), ticks), folder))
    return sorted(found, key=lambda attempt: attempt.shim.started_ticks)


def _state_folder(process: Path, agent_folder: Path) -> Path | None:
    try:
        words = (process / "cmdline").read_text(errors="replace").split("\0")
    except (OSError, ProcessLookupError):
        return None
    for before, word in itertools.pairwise(words):
        if Path(before).name in SHIMS and Path(word).is_relative_to(agent_folder):
            return Path(word)
    return None


def stop_attempts(home: Home, attempts: Sequence[RunningAttempt]) -> None:
    """Stop the runs through the scheduler, so that the log knows; what is left is ended without it."""
    # Without services, or a run that does not listen: the shims are ended all the same.
    with contextlib.suppress(ClientError, TimeoutError):
        asyncio.run(_stop_runs_of(home))
    kill_attempts([attempt for attempt in attempts if attempt.shim.is_alive()])


async def stop_runs(client: Client) -> None:
    """Ask every run that holds GPUs to end, and wait until all have.

    Raises:
        ClientError: the scheduler does not answer.
    """
    runs: list[Run] = []
    for state in ACTIVE_STATES:
        request = ListRunsRequest(page_size=PAGE_SIZE, filter=f"state={state}")
        runs += (await every_page(client.scheduler.ListRuns, request)).runs
    for run in runs:
        request_id = uuid7()
        await client.scheduler.StopRun(
            StopRunRequest(request_id=request_id, name=run.run_id, reason="the yard is stopped")
        )
    await asyncio.gather(*(_finished(client, run) for run in runs))


def kill_attempts(attempts: Sequence[RunningAttempt]) -> None:
    """End attempts with everything below them: asked first, killed after a few seconds."""
    for attempt in attempts:
        _signal(attempt.shim, signal.SIGTERM)  # the shim hands it on
    asyncio.run(_wait_for_all([attempt.shim for attempt in attempts], KILL_SECONDS_MAX))
    for attempt in attempts:
        if attempt.shim.is_alive():
            # Before the shim, which would otherwise leave them to nobody.
            for pid in _descendants(attempt.shim.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _signal(attempt.shim, signal.SIGKILL)
    asyncio.run(_wait_for_all([attempt.shim for attempt in attempts], KILL_SECONDS_MAX))


def stop_supervisor(home: Home) -> bool:
    """Ask the supervisor to stop everything and wait until it has; False when none was there.

    Raises:
        Unavailable: it does not end.
    """
    state = read_state(home)
    identity = state.supervisor.identity if state else None
    if identity is None or not identity.is_alive():
        return False
    _signal(identity, signal.SIGTERM)
    if not asyncio.run(wait_for_exit(identity.pid, SUPERVISOR_SECONDS_MAX)) and identity.is_alive():
        raise Unavailable(
            f"the supervisor (pid {identity.pid}) does not end: see {home.logs / 'supervisor.log'}",
            code="YARD_DOES_NOT_STOP",
        )
    return True


async def _stop_runs_of(home: Home) -> None:
    async with Client.connect(load_context(home.folder)) as client, asyncio.timeout(STOP_RUN_SECONDS_MAX):
        await stop_runs(client)


async def _finished(client: Client, run: Run) -> None:
    watch = WatchRunsRequest(after_position=run.position, name=run.run_id)
    async for response in client.scheduler.WatchRuns(watch):
        if response.WhichOneof("item") != "event":
            continue
        read = ReadOptions(min_position=response.event.position)
        now = await client.scheduler.GetRun(GetRunRequest(name=run.run_id, read=read))
        if now.run.state == RunState.RUN_STATE_FINISHED:
            return


async def _wait_for_all(identities: Sequence[ProcessIdentity], seconds_max: float) -> None:
    await asyncio.gather(*(wait_for_exit(one.pid, seconds_max) for one in identities if one.is_alive()))


def _signal(identity: ProcessIdentity, number: signal.Signals) -> None:
    if identity.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, number)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            stat = (process / "stat").read_text(errors="replace")
            parent = int(stat[stat.rindex(")") + 2 :].split()[1])
            children.setdefault(parent, []).append(int(process.name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
