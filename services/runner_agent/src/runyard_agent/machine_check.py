"""What this machine has for runs, and what is missing: told to the yard, and to whoever enrolls it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from runyard.node.v1.types_pb2 import NodeInventory
from runyard_agent import gpus, host
from runyard_agent.container_rules import ContainerRules
from runyard_agent.executors import DockerOnDemand, ProcessExecutor
from runyard_agent.limits import look_at_machine
from runyard_agent.mounts import mounting_problem
from runyard_agent.own_container import PROCESSES_WARNING, own_id

DISK_FREE_BYTES_MIN = 20 * 1024**3
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class MachineReport:
    """A machine as a run would find it."""

    inventory: NodeInventory
    """``warnings`` says what runs go without here."""
    programs: Sequence[tuple[str, str]]
    """Programs that runs are helped by: name, and where it is or what its absence means."""


async def take_inventory(
    directory: Path,
    slot_count: int,
    gpu_reader: gpus.Gpus,
    process: ProcessExecutor,
    docker: DockerOnDemand,
    *,
    nfs_exports: Sequence[str] = (),
) -> NodeInventory:
    """Say what the node has now, and in ``warnings`` what it cannot do; ``nfs_exports`` is what it shall."""
    inventory = host.inventory(directory)
    inventory.agent_version = version("runyard-agent")
    inventory.slot_count = slot_count
    inventory.gpus.extend(await gpu_reader.devices())
    inventory.gpu_driver_version = gpu_reader.driver_version
    inventory.cuda_version = gpu_reader.cuda_version
    inventory.warnings.extend(gpu_reader.warnings)
    inventory.warnings.extend(process.warnings)
    inventory.docker_version, warnings = await docker.look()
    inventory.warnings.extend(warnings)
    if nfs_exports and (problem := mounting_problem()):
        inventory.warnings.append(f"NFS exports are mounted for steps in containers only: {problem}.")
    if own_id():
        inventory.warnings.append(PROCESSES_WARNING)
    if inventory.disk_free_bytes < DISK_FREE_BYTES_MIN:
        inventory.warnings.append(
            f"Only {inventory.disk_free_bytes / _GIB:.0f} GiB are free below {directory}: "
            "inputs, environments and outputs of runs lie there."
        )
    return inventory


async def check_machine(
    directory: Path, node_id: str, slot_count: int, rules: ContainerRules
) -> MachineReport:
    """Look at everything once, as an agent that starts does; nothing is left behind."""
    with ExitStack() as stack:
        gpu_reader = gpus.open_gpus()
        stack.callback(gpu_reader.close)
        docker = DockerOnDemand(node_id, directory / "cache", rules)
        stack.callback(docker.close)
        limits = look_at_machine(directory)
        process = await ProcessExecutor.open(directory / "cache", os.environ.get("PATH", os.defpath), limits)
        inventory = await take_inventory(directory, slot_count, gpu_reader, process, docker)
    return MachineReport(inventory, tuple(_programs()))


def describe(report: MachineReport) -> Iterator[str]:
    """Give the lines that a person reads."""
    inventory = report.inventory
    memory_gib, disk_gib = inventory.memory_bytes / _GIB, inventory.disk_free_bytes / _GIB
    yield f"machine   {inventory.hostname}, {inventory.os}, kernel {inventory.kernel}"
    yield f"cpus      {inventory.cpu_count} ({inventory.cpu_model}), {memory_gib:.1f} GiB of memory"
    yield f"disk      {disk_gib:.0f} GiB free"
    for gpu in inventory.gpus:
        yield f"gpu {gpu.index:<5} {gpu.model}, {gpu.memory_bytes / _GIB:.0f} GiB, {gpu.uuid}"
    if inventory.gpus:
        yield f"driver    {inventory.gpu_driver_version}, CUDA {inventory.cuda_version}"
    yield f"docker    {inventory.docker_version or 'none'}"
    for name, found in report.programs:
        yield f"{name:<9} {found}"
    yield f"user      {_user()}"
    for warning in inventory.warnings:
        yield f"warning   {warning}"


def _programs() -> Iterator[tuple[str, str]]:
    yield "python", f"{sys.version.split()[0]} ({sys.executable})"
    yield "bash", shutil.which("bash") or "none: command lines are run by sh"
    yield "uv", shutil.which("uv") or "none: environments of processes are made by pip, which takes longer"


def _user() -> str:
    if os.geteuid() == 0:
        return "root: programs of runs that are processes are root, too"
    return f"uid {os.geteuid()}: programs of runs that are processes have the same rights"
