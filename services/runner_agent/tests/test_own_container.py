"""What an agent in a container knows of that container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runyard_agent.own_container import own_container, own_id

ID = "1b2f69f2735f" + "0" * 52
INSIDE = f"""\
1571 1461 0:153 / /proc rw,nosuid - proc proc rw
1580 1570 254:0 /var/lib/docker/containers/{ID}/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw
1581 1570 254:0 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw
1582 1570 254:0 /var/lib/runyard-agent /var/lib/runyard-agent rw,relatime - ext4 /dev/vda rw
"""
# What a machine sees of the containers that run on it.
OUTSIDE = f"""\
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 24 0:52 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw
"""


def inspected(pid_mode: str = "host", destination: str = "/var/lib/runyard-agent") -> dict[str, Any]:
    return {
        "Id": ID,
        "Image": "sha256:1",
        "HostConfig": {"PidMode": pid_mode},
        "Mounts": [
            {"Type": "bind", "Source": "/var/run/docker.sock", "Destination": "/var/run/docker.sock"},
            {"Type": "bind", "Source": "/var/lib/runyard-agent", "Destination": destination},
        ],
    }


def test_a_container_is_known_by_the_files_that_docker_gives_it_alone() -> None:
    assert own_id(INSIDE) == ID
    assert own_id(OUTSIDE) == ""
    assert own_id("") == ""


def test_a_folder_is_the_machines_when_it_lies_at_the_same_place() -> None:
    cache = Path("/var/lib/runyard-agent/cache")
    assert own_container(inspected()).shows(cache)
    assert not own_container(inspected(destination="/data")).shows(cache)
    anonymous = inspected()
    anonymous["Mounts"][1].update(Type="volume", Source="/var/lib/docker/volumes/x/_data")
    assert not own_container(anonymous).shows(cache)


def test_an_agent_that_cannot_see_processes_says_so() -> None:
    assert list(own_container(inspected()).warnings) == []
    [warning] = own_container(inspected(pid_mode="")).warnings
    assert "--pid host" in warning
