"""Starts the watch of a container: as a child, or where the agent is a container itself, as one more."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial

from runyard_agent import container_watch
from runyard_agent.docker_daemon import DEFAULT_ADDRESS, DockerDaemon
from runyard_agent.durable_files import write_atomically
from runyard_agent.life_lock import is_held
from runyard_agent.own_container import OwnContainer
from runyard_agent.runtime import LaunchPlan
from runyard_core.errors import NotFound, RunyardError

LABEL_WATCH = "runyard.watch"
"""On the watch's own container: name of the one that it watches."""

_START_SECONDS_MAX = 30.0
_LOOK_SECONDS = 0.05

Holds = Callable[[], Awaitable[bool]]
"""Waits until a watch that was started holds the limits; False when it does not."""


async def begin_watch(daemon: DockerDaemon, plan: LaunchPlan, container_id: str) -> Holds:
    """Begin to start the container's watch when the plan has limits for it and it has none."""
    times = (plan.time_limit_seconds, plan.no_output_timeout_seconds)
    if not any((*times, plan.ends_on_lease_expiry, plan.disk_bytes_max)) or _is_watched(plan):
        return _nothing_to_wait_for
    _write_plan(plan, container_id)
    command = [sys.executable, "-I", "-S", container_watch.__file__, str(plan.state)]
    if daemon.own is not None:
        watch_id = await _run_container(daemon, daemon.own, plan, [*command, container_watch.STAY])
        return partial(_container_holds, daemon, plan, watch_id, container_id)
    starter = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL, env={},
    )  # fmt: skip
    return partial(_child_holds, starter)


def _write_plan(plan: LaunchPlan, container_id: str) -> None:
    address = os.environ.get("DOCKER_HOST", DEFAULT_ADDRESS)
    content = {
        "container_id": container_id,
        "docker_socket": address.removeprefix("unix://"),
        "time_limit_seconds": plan.time_limit_seconds,
        "no_output_timeout_seconds": plan.no_output_timeout_seconds,
        "stop_grace_seconds": plan.stop_grace_seconds,
        "ends_on_lease_expiry": plan.ends_on_lease_expiry,
        "disk_bytes_max": plan.disk_bytes_max,
        "disk_folders": [str(folder) for folder in plan.written_folders],
        "given_folders": [str(plan.inputs), str(plan.repository)],
    }
    write_atomically(plan.state / container_watch.PLAN_FILE, json.dumps(content).encode())


async def _run_container(
    daemon: DockerDaemon, own: OwnContainer, plan: LaunchPlan, command: list[str]
) -> str:
    """Run a command in a container like our own, which goes when it ends."""
    api = daemon.api
    config = api.create_container_config(
        image=own.image,
        entrypoint=command,
        command=[],
        labels={LABEL_WATCH: plan.name},
        host_config=api.create_host_config(
            # Its pids are the daemon's, which are the machine's.
            pid_mode="host",
            network_mode="none",
            volumes_from=[own.id],
            auto_remove=True,
            security_opt=["no-new-privileges"],
        ),
    )
    created = await daemon.call(api.create_container_from_config, config)
    await daemon.call(api.start, created["Id"])
    return str(created["Id"])


async def _nothing_to_wait_for() -> bool:
    return True


async def _child_holds(starter: asyncio.subprocess.Process) -> bool:
    # It returns as soon as the watch holds its lock.
    return await starter.wait() == 0


async def _container_holds(daemon: DockerDaemon, plan: LaunchPlan, watch_id: str, container_id: str) -> bool:
    gives_up_at = asyncio.get_running_loop().time() + _START_SECONDS_MAX
    while not _is_watched(plan):
        if not await _runs(daemon, watch_id):
            # With nothing left to watch it has ended well.
            return not await _runs(daemon, container_id)
        if asyncio.get_running_loop().time() > gives_up_at:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True


async def _runs(daemon: DockerDaemon, container_id: str) -> bool:
    try:
        found = await daemon.call(daemon.api.inspect_container, container_id)
    except NotFound:
        return False
    except RunyardError:
        # The daemon is away for a moment.
        return True
    return bool(found["State"]["Running"])


def _is_watched(plan: LaunchPlan) -> bool:
    """Say whether the watch lives: it holds its lock for life."""
    return is_held(plan.state / container_watch.LOCK_FILE)
