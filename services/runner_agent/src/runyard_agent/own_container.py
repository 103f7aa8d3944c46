"""The container that the agent itself may run in: how it finds that out, and what it needs of it.

An agent in a container has no child that outlives it, and sees of the machine what it was let. What runs in
containers need all the same is asked of the daemon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MOUNTS = Path("/proc/self/mountinfo")
# Docker gives each container these files of its own, whatever network it is in.
_OWN_FILE = re.compile(r"/containers/([0-9a-f]{64})/\S+ /etc/(?:hostname|hosts|resolv\.conf) ")

PROCESSES_WARNING = (
    "The agent runs in a container: runs that are processes run in there and end with it. Run steps in "
    "containers, or install the agent's package instead."
)


@dataclass(frozen=True, slots=True)
class OwnContainer:
    """The agent's container, as its daemon knows it."""

    id: str
    image: str
    """Id of its image."""
    sees_processes: bool
    """Whether it has the machine's pid namespace."""
    shared: tuple[Path, ...]
    """Folders and files that are the machine's, at the same place."""

    def shows(self, folder: Path) -> bool:
        """Say whether the machine has a folder where we have it: the daemon mounts it into containers."""
        return any(folder.is_relative_to(each) for each in self.shared)

    @property
    def warnings(self) -> Iterator[str]:
        """Give what this agent cannot do, one sentence each."""
        if not self.sees_processes:
            yield (
                "The agent's container has a pid namespace of its own: what runs use, and who else uses the "
                "GPUs, cannot be told. Start it with --pid host."
            )


def own_id(mounts: str | None = None) -> str:
    """Give the id of the container in which this process runs; empty outside of one."""
    if mounts is None:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace")
    found = _OWN_FILE.search(mounts)
    return found[1] if found else ""


def own_container(inspected: Mapping[str, Any]) -> OwnContainer:
    """Give what the daemon says of our container."""
    return OwnContainer(
        id=str(inspected["Id"]),
        image=str(inspected["Image"]),
        sees_processes=inspected["HostConfig"].get("PidMode") == "host",
        shared=tuple(
            Path(mount["Source"])
            for mount in inspected["Mounts"]
            if mount["Type"] == "bind" and mount["Source"] == mount["Destination"]
        ),
    )
