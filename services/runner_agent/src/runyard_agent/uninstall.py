"""Takes the agent off this machine: containers, programs, folders and unit."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from runyard_agent import process_table
from runyard_agent.attempt_store import AttemptRecord, AttemptStore
from runyard_agent.below import remove_tree
from runyard_agent.container_config import LABEL_NODE
from runyard_agent.docker_daemon import DockerDaemon, open_docker
from runyard_agent.folder_lock import locked
from runyard_agent.limits import MachineLimits, look_at_machine
from runyard_agent.runtime import Handle, LaunchPlan
from runyard_agent.runtime_process import ProcessRuntime
from runyard_agent.systemd_unit import UNIT_PATH
from runyard_core.errors import Conflict, RunyardError

_SYSTEMCTL_SECONDS_MAX = 60.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Program:
    """A process of an attempt that runs, as its shim knows it."""

    plan: LaunchPlan
    handle: Handle


def uninstall(directory: Path, node_id: str, *, force: bool, tell: Tell) -> None:
    """Remove everything that the agent ever wrote here. What the yard recorded stays there.

    Args:
        directory: the agent's folder; it goes, too.
        node_id: whose containers go; empty when the machine never was a node.
        force: end attempts that run.
        tell: gets a line for each thing that was removed.

    Raises:
        Conflict: AGENT_RUNNING, or ATTEMPTS_RUNNING without ``force``; nothing was removed.
        RunyardError: UNINSTALL_INCOMPLETE, something cannot be removed; the rest is gone.
    """
    left: list[str] = []
    if directory.exists():
        with locked(directory):
            limits = look_at_machine(directory)
            try:
                records = _records(directory / "attempts")
                asyncio.run(_end_attempts(records, node_id, limits, force=force, tell=tell))
            finally:
                limits.close()
            # With the lock held: nobody may begin anything in what is being removed.
            if not remove_tree(directory):
                left.append(str(directory))
        tell(f"removed {directory}: credential, spool, caches, environments, attempts")
    if UNIT_PATH.exists():
        left += _remove_unit(tell)
    if left:
        raise RunyardError(
            f"cannot be removed whole: {', '.join(left)}; try again as root", code="UNINSTALL_INCOMPLETE"
        )


@dataclass(frozen=True, slots=True)
class _Container:
    """A container of the node, running or not."""

    daemon: DockerDaemon
    container_id: str
    name: str
    is_running: bool

    async def remove(self) -> None:
        await self.daemon.call(self.daemon.api.remove_container, self.container_id, force=True, v=True)


def _records(attempts: Path) -> list[AttemptRecord]:
    return AttemptStore(attempts).load() if attempts.exists() else []


async def _end_attempts(
    records: Sequence[AttemptRecord], node_id: str, limits: MachineLimits, *, force: bool, tell: Tell
) -> None:
    programs = await _running_programs(records, limits)
    async with _containers(node_id) as containers:
        running = [program.plan.name for program in programs]
        running += [each.name for each in containers if each.is_running]
        if running and not force:
            raise Conflict(
                f"attempts run on this machine: {', '.join(sorted(running))}. Stop their runs, "
                "or end them with --force: what they have not stored yet is lost",
                code="ATTEMPTS_RUNNING",
            )
        runtime = ProcessRuntime(limits)
        for program in programs:
            await runtime.remove(program.handle, program.plan)
            tell(f"ended {program.plan.name}")
        for container in containers:
            await container.remove()
            tell(f"removed container {container.name}")


async def _running_programs(records: Sequence[AttemptRecord], limits: MachineLimits) -> list[_Program]:
    runtime = ProcessRuntime(limits)
    found = []
    for record in records:
        plan = _plan(record)
        handle = await runtime.find(plan)
        if handle is not None and process_table.start_ticks(int(handle.id)) == handle.start_ticks:
            found.append(_Program(plan, handle))
    return found


def _plan(record: AttemptRecord) -> LaunchPlan:
    """Give what a runtime needs to know of an attempt to end it."""
    grant = record.grant
    return LaunchPlan(
        run_id=grant.run_id,
        attempt=grant.attempt,
        epoch=grant.epoch,
        directory=record.directory,
        command_lines=(),
        environment={},
    )


@asynccontextmanager
async def _containers(node_id: str) -> AsyncIterator[Sequence[_Container]]:
    """Give the node's containers while the block runs; none where no daemon answers."""
    daemon = await open_docker() if node_id else ""
    if isinstance(daemon, str):
        yield ()
        return
    try:
        label = {"label": f"{LABEL_NODE}={node_id}"}
        found = await daemon.call(daemon.api.containers, all=True, filters=label)
        yield [
            _Container(daemon, each["Id"], each["Names"][0].strip("/"), each["State"] == "running")
            for each in found
        ]
    finally:
        daemon.close()


def _remove_unit(tell: Tell) -> list[str]:
    if not os.access(UNIT_PATH.parent, os.W_OK):
        return [str(UNIT_PATH)]
    systemctl = shutil.which("systemctl")
    if systemctl is not None:
        _systemctl(systemctl, "disable", "--now", UNIT_PATH.name)
    UNIT_PATH.unlink()
    if systemctl is not None:
        _systemctl(systemctl, "daemon-reload")
    tell(f"removed {UNIT_PATH}")
    return []


def _systemctl(program: str, *words: str) -> None:
    # Where systemd is installed but does not run, as in containers, it says so and there is nothing to stop.
    subprocess.run([program, *words], check=False, capture_output=True, timeout=_SYSTEMCTL_SECONDS_MAX)
