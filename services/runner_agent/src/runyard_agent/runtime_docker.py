"""Runs attempts in Docker containers: the daemon is the parent that outlives the agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from runyard_agent import container_watch
from runyard_agent.attempt_sampler import container_pids
from runyard_agent.container_config import (
    LABEL_ATTEMPT,
    LABEL_RUN,
    container_config,
    open_folders,
)
from runyard_agent.container_rules import ContainerRules
from runyard_agent.docker_daemon import DockerDaemon
from runyard_agent.durable_files import write_atomically
from runyard_agent.runtime import EndedBy, Exit, Handle, LaunchPlan
from runyard_agent.watch_start import Holds, begin_watch
from runyard_core.errors import Conflict, NotFound, RunyardError, Unavailable
from runyard_core.retry import Backoff, Retries

_LOOK_SECONDS = 5.0
_UNSEEN_SECONDS_MIN = 0.1
_BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0)
_CONTAINER_FILE = "container.json"
_KILLED_EXIT_CODE = 128 + signal.SIGKILL

logger = logging.getLogger(__name__)


class DockerRuntime:
    """The ``Runtime`` of the container executor."""

    def __init__(self, daemon: DockerDaemon, node_id: str, rules: ContainerRules | None = None) -> None:
        """Use a daemon; ``node_id`` labels the containers."""
        self._daemon = daemon
        self._node_id = node_id
        self._rules = rules or ContainerRules()
        self._first_pids: dict[str, int] = {}

    async def launch(self, plan: LaunchPlan) -> Handle:
        """Create and start the container, at most once: its name is the attempt's."""
        if (found := await self.find(plan)) is not None:
            return found
        if plan.ends_on_lease_expiry and not plan.lease_file.exists():
            raise RunyardError(
                f"{plan.name} would end with its lease, but has none yet", code="LEASE_MISSING"
            )
        await asyncio.to_thread(open_folders, plan)
        container_id = await self._create(plan)
        write_atomically(plan.state / _CONTAINER_FILE, json.dumps({"id": container_id}).encode())
        try:
            # Under way before the start: if the agent dies right after it, the limits are held all the same.
            # Not waited for until then: to start an interpreter takes a third of what Docker takes.
            holds = await begin_watch(self._daemon, plan, container_id)
            await self._daemon.call(self._daemon.api.start, container_id)
            await _require(holds, plan)
        except Unavailable:
            raise
        except RunyardError as error:
            await self._discard(container_id)
            raise _cannot_start(plan, error) from error
        return Handle(kind="container", id=container_id)

    async def find(self, plan: LaunchPlan) -> Handle | None:
        """Find the container by name; one that was created and never started does not count."""
        try:
            container = await self._inspect(plan.name)
        except NotFound:
            if plan.exit_file.exists():
                return Handle(kind="container", id=_known_id(plan))
            return None
        labels = container["Config"]["Labels"] or {}
        if (labels.get(LABEL_RUN), labels.get(LABEL_ATTEMPT)) != (plan.run_id, str(plan.attempt)):
            raise Conflict(f"container {plan.name} exists, but is not of this attempt: remove or rename it")
        if container["State"]["Status"] == "created":
            return None
        return Handle(kind="container", id=str(container["Id"]))

    async def wait(self, handle: Handle, plan: LaunchPlan) -> Exit:
        """Wait for the container's first process, then for the daemon to say how it ended."""
        # The daemon may be restarted meanwhile; the container may be well.
        retries = Retries(f"watching container {plan.name}", _BACKOFF, logger)
        unseen_seconds = _UNSEEN_SECONDS_MIN
        while not plan.exit_file.exists():
            try:
                state = (await self._inspect(handle.id))["State"]
                if state["Running"] or state["Status"] == "created":
                    await _require(await begin_watch(self._daemon, plan, handle.id), plan)
                    await self._wait_a_while(handle, int(state["Pid"]), unseen_seconds)
                    unseen_seconds = min(2 * unseen_seconds, _LOOK_SECONDS)
                else:
                    write_atomically(plan.exit_file, json.dumps(_exit_of(state, plan).to_json()).encode())
            except NotFound:
                return _unseen_end()
            except Unavailable as error:
                await retries.pause(error)
            else:
                retries.succeeded()
        return Exit.from_json(json.loads(plan.exit_file.read_bytes()))

    async def signal(self, handle: Handle, signal_number: int) -> None:
        """Signal the script and everything in its process group (by the container's init)."""
        await self._kill(handle, signal_number)

    async def kill(self, handle: Handle) -> None:
        """Kill the container's init, and with it every process of its pid namespace."""
        await self._kill(handle, signal.SIGKILL)

    async def remove(self, handle: Handle, plan: LaunchPlan) -> None:  # noqa: ARG002 - the name is in the handle
        """Remove the container with its file system."""
        self._first_pids.pop(handle.id, None)
        with contextlib.suppress(NotFound):
            await self._daemon.call(self._daemon.api.remove_container, handle.id, v=True, force=True)

    async def pids(self, handle: Handle) -> Sequence[int]:
        """Give the pids of the container's cgroup, its first process first."""
        pid = self._first_pids.get(handle.id)
        if pid is None:
            with contextlib.suppress(NotFound, Unavailable):
                pid = int((await self._inspect(handle.id))["State"]["Pid"])
        if not pid:
            return ()
        found = container_pids(pid, handle.id)
        if found:
            self._first_pids[handle.id] = pid
        return found

    async def _wait_a_while(self, handle: Handle, pid: int, unseen_seconds: float) -> None:
        """Wait for the end of a container's first process, and for the daemon to agree; a while at most.

        A process that is gone already, or not to be seen from here, is waited for ``unseen_seconds``.
        """
        async with _end_of(pid) as ended:
            try:
                async with asyncio.timeout(_LOOK_SECONDS if ended else unseen_seconds):
                    await (ended or asyncio.Event()).wait()
            except TimeoutError:
                return
        # It holds a thread, but the daemon hears of an end only a moment later than we do.
        await self._daemon.call(self._daemon.api.wait, handle.id, timeout=_LOOK_SECONDS)

    async def _inspect(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await self._daemon.call(self._daemon.api.inspect_container, name)
        return found

    async def _kill(self, handle: Handle, signal_number: int) -> None:
        try:
            await self._daemon.call(self._daemon.api.kill, handle.id, signal_number)
        except NotFound:
            return
        except RunyardError as error:
            # The daemon refuses to signal what has ended; anything else is worth hearing about.
            if "is not running" not in error.message:
                raise

    async def _discard(self, container_id: str) -> None:
        with contextlib.suppress(RunyardError):
            await self._daemon.call(self._daemon.api.remove_container, container_id, v=True, force=True)

    async def _create(self, plan: LaunchPlan) -> str:
        try:
            config = container_config(self._daemon.api, plan, self._node_id, self._rules)
            created = await self._daemon.call(
                self._daemon.api.create_container_from_config, config, name=plan.name
            )
        except NotFound as error:
            raise Unavailable(
                f"image {plan.image!r} is not on this node: {error}", code="IMAGE_UNAVAILABLE"
            ) from error
        except Unavailable:
            raise
        except RunyardError as error:
            # Left over from a launch that was cut short between create and start.
            with contextlib.suppress(NotFound):
                return str((await self._inspect(plan.name))["Id"])
            raise _cannot_start(plan, error) from error
        return str(created["Id"])


async def _require(holds: Holds, plan: LaunchPlan) -> None:
    """Wait until a watch holds the limits.

    Raises:
        RunyardError: ENVIRONMENT_UNAVAILABLE, it could not be started: nobody would hold them.
    """
    if not await holds():
        raise _cannot_start(plan, "its watch could not be started")


@contextlib.asynccontextmanager
async def _end_of(pid: int) -> AsyncIterator[asyncio.Event | None]:
    """Give an event that is set when a process has ended; the kernel tells, nobody polls.

    None when it is gone already, or not to be seen from here: then the next look at the daemon must do.
    """
    try:
        process = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(process, ended.set)
    try:
        yield ended
    finally:
        loop.remove_reader(process)
        os.close(process)


def _exit_of(state: Mapping[str, Any], plan: LaunchPlan) -> Exit:
    exit_code = int(state["ExitCode"])
    # Set also when only a child was killed and the program went on: both together say what happened.
    oom_killed = bool(state["OOMKilled"]) and exit_code == _KILLED_EXIT_CODE
    ended_by, detail = EndedBy.ITSELF, str(state.get("Error") or "")
    with contextlib.suppress(FileNotFoundError):
        end = json.loads((plan.state / container_watch.END_FILE).read_bytes())
        ended_by, detail = EndedBy(end["ended_by"]), str(end["detail"])
    if oom_killed and ended_by is EndedBy.ITSELF and plan.memory_bytes_max:
        ended_by, detail = EndedBy.MEMORY_LIMIT, f"used more than its limit of {plan.memory_bytes_max} bytes"
    elif state["OOMKilled"] and exit_code and not detail:
        detail = "the kernel killed a process of the container for its memory"
    return Exit(
        exit_code=exit_code,
        signal=0,
        oom_killed=oom_killed,
        ended_at=datetime.fromisoformat(state["FinishedAt"]).astimezone(UTC),
        ended_by=ended_by,
        detail=detail,
    )


def _unseen_end() -> Exit:
    return Exit(
        exit_code=None,
        signal=0,
        oom_killed=False,
        ended_at=datetime.now(UTC),
        detail="the container was removed before anybody saw how it ended",
        is_known=False,
    )


def _cannot_start(plan: LaunchPlan, reason: object) -> RunyardError:
    text = str(reason)
    if "could not select device driver" in text or "nvidia" in text.lower():
        text = f"this node's Docker cannot give GPUs to containers; install the NVIDIA toolkit ({text})"
    elif '"/bin/sh"' in text:
        text = f"the image has no /bin/sh to run command lines with ({text})"
    return RunyardError(f"{plan.name} could not be started: {text}", code="ENVIRONMENT_UNAVAILABLE")


def _known_id(plan: LaunchPlan) -> str:
    try:
        return str(json.loads((plan.state / _CONTAINER_FILE).read_bytes())["id"])
    except FileNotFoundError:
        return plan.name
