"""What a container is created with: the contract's folders, limits, and as few rights as possible."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import docker
from docker.types import DeviceRequest, DriverConfig, Healthcheck, Mount, Ulimit

from runyard_agent.container_rules import ContainerRules
from runyard_agent.domain.command_script import is_executable
from runyard_agent.domain.file_systems import FileSystem
from runyard_agent.limits import PROCESSES_MAX
from runyard_agent.runtime import LaunchPlan

LABEL_RUN = "runyard.run"
LABEL_ATTEMPT = "runyard.attempt"
LABEL_EPOCH = "runyard.epoch"
LABEL_NODE = "runyard.node"
LABEL_PROBE = "runyard.probe"
"""On what looks into an image instead: the image's id."""

_STATE = "/runyard"
# Output goes to files, as from a process, so that an agent that comes back goes on at a byte offset.
_START = f"exec >>{_STATE}/stdout 2>>{_STATE}/stderr; cd /valohai/repository || exit 126; "
_RUN_SCRIPT = f'if command -v bash >/dev/null; then exec bash -c ". {_STATE}/command"; fi; . {_STATE}/command'
_RUN_EXECUTABLE = f"exec {_STATE}/command"


def container_config(
    api: docker.APIClient, plan: LaunchPlan, node_id: str, rules: ContainerRules
) -> Mapping[str, Any]:
    """Give what the daemon creates the container of an attempt from."""
    start = _START + (_RUN_EXECUTABLE if is_executable(plan.command_lines) else _RUN_SCRIPT)
    config: Mapping[str, Any] = api.create_container_config(
        image=plan.image,
        entrypoint=["/bin/sh", "-c"],
        command=[start],
        working_dir="/valohai/repository",
        environment={**plan.environment, **_container_variables(plan)},
        labels={
            LABEL_RUN: plan.run_id,
            LABEL_ATTEMPT: str(plan.attempt),
            LABEL_EPOCH: str(plan.epoch),
            LABEL_NODE: node_id,
        },
        healthcheck=Healthcheck(test=["NONE"]),
        host_config=_host_config(api, plan, rules),
    )
    return config


def open_folders(plan: LaunchPlan) -> None:
    """Let the image's own user, whoever that is, write where the contract says; nobody else gets this far."""
    plan.directory.chmod(0o700)
    for folder in (plan.repository, plan.inputs, plan.outputs):
        for directory, _, _ in os.walk(folder):
            # Another user's folder is one that an earlier start of this attempt made.
            with contextlib.suppress(PermissionError):
                os.chmod(directory, 0o777)  # noqa: S103
    plan.config.chmod(0o755)
    for file in plan.config.iterdir():
        file.chmod(0o644)
    plan.script.chmod(0o755)
    for file in (plan.stdout, plan.stderr):
        file.touch()
        file.chmod(0o666)


def _host_config(api: docker.APIClient, plan: LaunchPlan, rules: ContainerRules) -> Mapping[str, Any]:
    shared_memory_bytes = rules.shared_memory_bytes or plan.memory_bytes_max or _half_of_memory_bytes()
    config: Mapping[str, Any] = api.create_host_config(
        mounts=_mounts(plan),
        network_mode=rules.network,
        init=True,
        cap_drop=["ALL"],
        cap_add=list(rules.capabilities),
        security_opt=["no-new-privileges"],
        pids_limit=plan.processes_max or PROCESSES_MAX,
        mem_limit=plan.memory_bytes_max or None,
        memswap_limit=plan.memory_bytes_max or None,
        nano_cpus=plan.cpu_millicores_max * 1_000_000 or None,
        shm_size=shared_memory_bytes,
        ulimits=_ulimits(plan),
        device_requests=[DeviceRequest(device_ids=list(plan.gpu_uuids), capabilities=[["gpu"]])]
        if plan.gpu_uuids
        else None,
        oom_score_adj=300,
        log_config={"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
    )
    return config


def _ulimits(plan: LaunchPlan) -> list[Ulimit]:
    limits = []
    if plan.gpu_uuids:
        # Pinned host memory, as the makers of the GPUs ask for.
        limits.append(Ulimit(name="memlock", soft=-1, hard=-1))
    if plan.disk_bytes_max:
        # At once, where the watch needs a second; and no file with holes is larger than what can be stored.
        limits.append(Ulimit(name="fsize", soft=plan.disk_bytes_max, hard=plan.disk_bytes_max))
    return limits


def _container_variables(plan: LaunchPlan) -> dict[str, str]:
    variables = {
        # The init passes signals to the whole group of the script, not to the shell alone.
        "TINI_KILL_PROCESS_GROUP": "1",
    }
    if not plan.gpu_uuids:
        # Many images ask for all GPUs of the machine; that is not theirs to decide.
        variables["NVIDIA_VISIBLE_DEVICES"] = "void"
    return variables


def _mounts(plan: LaunchPlan) -> list[Mount]:
    folders = {
        "/valohai/repository": plan.repository,
        "/valohai/inputs": plan.inputs,
        "/valohai/outputs": plan.outputs,
        "/valohai/config": plan.config,
        f"{_STATE}/stdout": plan.stdout,
        f"{_STATE}/stderr": plan.stderr,
        f"{_STATE}/command": plan.script,
    }
    read_only = {"/valohai/config", f"{_STATE}/command"}
    own = [
        Mount(target=target, source=str(source), type="bind", read_only=target in read_only)
        for target, source in folders.items()
    ]
    shared = [_shared(source, target) for source, target in plan.mounts]
    return [*own, *shared, *(_volume(each) for each in plan.file_systems)]


def _shared(source: str, target: str) -> Mount:
    mount = Mount(target=target, source=source, type="bind", read_only=True)
    # What is mounted below it would not be read-only everywhere.
    mount["BindOptions"] = {"NonRecursive": True}
    return mount


def _volume(file_system: FileSystem) -> Mount:
    """Give a volume without a name, which goes with its container; its own options make it read-only."""
    # The daemon refuses to do that itself for a volume without a name.
    driver = DriverConfig("local", file_system.volume())
    return Mount(file_system.destination, None, type="volume", no_copy=True, driver_config=driver)


def _half_of_memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
