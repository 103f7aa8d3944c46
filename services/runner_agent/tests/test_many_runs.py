"""Run after run on one agent: nothing is left on the machine, and the agent does not grow."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.run.v1.types_pb2 import CauseCode, Executor
from runyard_agent.container_config import LABEL_RUN
from runyard_agent.limits import tree_name
from runyard_agent.process_table import descendants

from .running_agent import agent_changes, cache, mounts, yard
from .scripted_yard import ScriptedYard

__all__ = ["agent_changes", "cache", "yard"]

pytestmark = [pytest.mark.system, pytest.mark.faults, pytest.mark.timeout(600)]

WHOLE = os.environ.get("RUNYARD_FAULT_DOSE") == "whole"
PROCESSES = 200 if WHOLE else 5
CONTAINERS = 30 if WHOLE else 1
AT_ONCE = 2
GROWTH_KILOBYTES_MAX = 6_000
FILES_MAX = 6
"""Open files of the agent that come and go: connections, a file that is being read."""

COMMAND = "echo run; echo x > $VH_OUTPUTS_DIR/file; (setsid sleep 1000 &); mkdir -p $HOME/left/behind"


@dataclass(frozen=True)
class Machine:
    """What runs could leave behind."""

    attempts: list[str]
    processes: int
    mounts: list[str]
    groups: list[str]
    containers: list[str]
    networks: int
    volumes: int


def agent_pid(yard: ScriptedYard) -> int:
    assert yard.agent.process is not None
    return yard.agent.process.pid


def look(yard: ScriptedYard, docker_client: Any = None) -> Machine:
    containers, networks, volumes = [], 0, 0
    if docker_client is not None:
        # Tests at the same time have containers of their own on the same daemon.
        containers = [
            container.name
            for container in docker_client.containers.list(
                all=True, filters={"label": LABEL_RUN}, ignore_removed=True
            )
            if container.labels[LABEL_RUN] in yard.scheduler.grants
        ]
        networks = len(docker_client.networks.list())
        # Nor do these runs have file systems mounted, which are volumes with options.
        volumes = len([each for each in docker_client.volumes.list() if not each.attrs["Options"]])
    return Machine(
        attempts=sorted(path.name for path in (yard.agent.directory / "attempts").iterdir()),
        processes=len(descendants(agent_pid(yard))) + len(shims_of(yard.agent.directory)),
        mounts=[line for line in mounts().splitlines() if str(yard.agent.directory) in line],
        groups=groups_of(yard.agent.directory),
        containers=containers,
        networks=networks,
        volumes=volumes,
    )


def groups_of(directory: Path) -> list[str]:
    roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    return sorted(str(path) for root in roots for path in root.glob(f"{tree_name(directory)}/*/"))


def shims_of(directory: Path) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.fsencode(directory) in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kilobytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def run_many(yard: ScriptedYard, count: int, **spec: Any) -> None:
    waiting: list[LeaseGrant] = []
    for _ in range(count):
        waiting.append(yard.scheduler.grant(COMMAND, **spec))
        if len(waiting) >= AT_ONCE:
            await ended(yard, waiting.pop(0))
    for grant in waiting:
        await ended(yard, grant)
    await yard.scheduler.wait_for(lambda: not yard.scheduler.held)
    async with asyncio.timeout(40):
        while any((yard.agent.directory / "attempts").iterdir()):  # noqa: ASYNC110 - the agent removes them
            await asyncio.sleep(0.05)


async def ended(yard: ScriptedYard, grant: LeaseGrant) -> None:
    cause = (await yard.finished(grant, 60)).finished.cause
    assert cause.code == CauseCode.CAUSE_CODE_SUCCEEDED, cause


async def test_processes_in_a_row_leave_nothing_behind(yard: ScriptedYard) -> None:
    await run_many(yard, 20 if WHOLE else 1)
    before, pid = look(yard), agent_pid(yard)
    files, memory = open_files(pid), resident_kilobytes(pid)

    await run_many(yard, PROCESSES)

    assert look(yard) == before
    assert (before.attempts, before.groups, before.mounts) == ([], [], [])
    assert open_files(pid) <= files + FILES_MAX
    assert resident_kilobytes(pid) <= memory + GROWTH_KILOBYTES_MAX
    assert agent_pid(yard) == pid


async def test_containers_in_a_row_leave_nothing_behind(
    yard: ScriptedYard, test_image: str, docker_client: Any
) -> None:
    spec = {"executor": Executor.EXECUTOR_DOCKER, "image": test_image}
    # By then the connections to the daemon that are kept for the next question are all there.
    await run_many(yard, 3, **spec)
    before, pid = look(yard, docker_client), agent_pid(yard)
    files, memory = open_files(pid), resident_kilobytes(pid)

    await run_many(yard, CONTAINERS, **spec)

    assert look(yard, docker_client) == before
    assert (before.attempts, before.containers) == ([], [])
    assert open_files(pid) <= files + FILES_MAX
    assert resident_kilobytes(pid) <= memory + GROWTH_KILOBYTES_MAX
