"""What a container is created with, as the daemon will read it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import docker
import pytest

from runyard_agent.container_config import container_config
from runyard_agent.container_rules import ContainerRules
from runyard_agent.domain.file_systems import FileSystem
from runyard_agent.runtime import LaunchPlan

MakePlan = Callable[..., LaunchPlan]
MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("rules", "memory_bytes_max", "shared_memory_bytes"),
    [
        (ContainerRules(), 0, MEMORY_BYTES // 2),
        (ContainerRules(), 3 << 30, 3 << 30),
        (ContainerRules(shared_memory_bytes=1 << 30), 3 << 30, 1 << 30),
    ],
)
def test_shared_memory_holds_the_batches_of_data_loaders(
    make_plan: MakePlan, rules: ContainerRules, memory_bytes_max: int, shared_memory_bytes: int
) -> None:
    plan = make_plan("true", image="x", memory_bytes_max=memory_bytes_max)
    config = container_config(docker.APIClient(version="1.41"), plan, "node-1", rules)
    assert config["HostConfig"]["ShmSize"] == shared_memory_bytes


def test_an_export_is_a_volume_of_the_container_alone(make_plan: MakePlan) -> None:
    export = FileSystem("nfs", "nas", "/export", "ro,nosuid,nodev,vers=4.2", "/sets")
    plan = dataclasses.replace(make_plan("true", image="x"), file_systems=(export,))
    config = container_config(docker.APIClient(version="1.41"), plan, "node-1", ContainerRules())
    driver = {"type": "nfs", "device": ":/export", "o": "addr=nas,ro,nosuid,nodev,vers=4.2"}
    assert config["HostConfig"]["Mounts"][-1] == {
        "Target": "/sets", "Source": None, "Type": "volume", "ReadOnly": False,
        "VolumeOptions": {"NoCopy": True, "DriverConfig": {"Name": "local", "Options": driver}},
    }  # fmt: skip


def test_shared_folders_are_mounted_read_only_without_what_is_mounted_below(make_plan: MakePlan) -> None:
    plan = dataclasses.replace(make_plan("true", image="x"), mounts=(("/mnt/sets", "/sets"),))
    config = container_config(docker.APIClient(version="1.41"), plan, "node-1", ContainerRules())
    assert config["HostConfig"]["Mounts"][-1] == {
        "Target": "/sets", "Source": "/mnt/sets", "Type": "bind", "ReadOnly": True,
        "BindOptions": {"NonRecursive": True},
    }  # fmt: skip
