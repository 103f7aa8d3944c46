"""Containers of attempts below one folder, whoever holds those."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runyard_agent.container_config import LABEL_ATTEMPT, LABEL_RUN
from runyard_agent.docker_daemon import DockerDaemon
from runyard_core.errors import NotFound


@dataclass(frozen=True, slots=True)
class AttemptContainer:
    """A container that was made for an attempt."""

    daemon: DockerDaemon
    id: str
    attempt: str
    is_running: bool

    @property
    def words(self) -> str:
        """Name it for people."""
        return f"container {self.id[:12]} of attempt {self.attempt}"

    async def tell(self) -> None:
        """Ask its program to end."""
        if self.is_running:
            with contextlib.suppress(NotFound):
                await self.daemon.call(self.daemon.api.kill, self.id, signal.SIGTERM)

    async def kill(self) -> None:
        """Remove it with its file system."""
        with contextlib.suppress(NotFound):
            await self.daemon.call(self.daemon.api.remove_container, self.id, v=True, force=True)


async def containers_below(daemon: DockerDaemon, attempts: Path) -> Sequence[AttemptContainer]:
    """Give the containers that have a folder of an attempt below this one, however it is spelled.

    Raises:
        Unavailable: the daemon does not answer.
    """
    found = await daemon.call(daemon.api.containers, all=True, filters={"label": LABEL_RUN})
    return [
        AttemptContainer(
            daemon,
            str(each["Id"]),
            f"{each['Labels'].get(LABEL_RUN)}-{each['Labels'].get(LABEL_ATTEMPT)}",
            each["State"] == "running",
        )
        for each in found
        if any(_is_below(str(mount.get("Source", "")), attempts) for mount in each["Mounts"])
    ]


def _is_below(path: str, folder: Path) -> bool:
    # The daemon spells a path as it was told; what lay there may be gone, or not for us to see.
    for parent in Path(path).parents:
        with contextlib.suppress(OSError):
            if parent.samefile(folder):
                return True
    return False
