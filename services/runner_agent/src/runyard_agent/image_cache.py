"""The images that the agent has pulled: those unused for longest go when all together take too much.

Only what the agent pulled itself: an image that was there before, or that has a second name by now, is
somebody else's. The daemon keeps what a container uses; what an attempt of the last hour used stays, too, as
its container may not be made yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path

from runyard_agent.container_config import LABEL_PROBE
from runyard_agent.docker_daemon import DockerDaemon
from runyard_core.errors import NotFound, RunyardError

logger = logging.getLogger(__name__)

IMAGE_BYTES_MAX = 100 << 30
_RECENT_SECONDS = 3600.0


class ImageCache:
    """What is known of the images of one node: a small file for each, dated by its last use."""

    def __init__(
        self, daemon: DockerDaemon, directory: Path, *, size_bytes_max: int = IMAGE_BYTES_MAX
    ) -> None:
        """Use a folder, made on first use."""
        self._daemon = daemon
        self._directory = directory
        self._size_bytes_max = size_bytes_max
        self._trimming = asyncio.Lock()

    def note(self, image_id: str, *, was_pulled: bool) -> None:
        """An attempt uses an image, which was pulled for it or there already."""
        path = self._directory / image_id.replace(":", "-")
        if was_pulled:
            self._directory.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif path.exists():
            os.utime(path)

    async def trim(self) -> None:
        """Remove what was not used for longest until all take less than they may."""
        async with self._trimming:
            try:
                await self._trim()
            except RunyardError:
                logger.exception("images cannot be removed now")

    async def _trim(self) -> None:
        used_at = await asyncio.to_thread(_known, self._directory)
        sizes = {image_id: await self._size_bytes(image_id) for image_id in used_at}
        total = sum(sizes.values())
        for image_id in sorted(sizes, key=lambda each: used_at[each]):
            is_recent = time.time() - used_at[image_id] < _RECENT_SECONDS
            if total > self._size_bytes_max and not is_recent and await self._removed(image_id):
                total -= sizes[image_id]

    async def _size_bytes(self, image_id: str) -> int:
        try:
            return int((await self._daemon.call(self._daemon.api.inspect_image, image_id))["Size"])
        except NotFound:
            self._forget(image_id)
            return 0

    async def _removed(self, image_id: str) -> bool:
        try:
            await self._remove_probes(image_id)
            await self._daemon.call(self._daemon.api.remove_image, image_id)
        except NotFound:
            pass
        except RunyardError as error:
            if error.code != "DOCKER_REFUSED":
                raise
            # A container uses it, or somebody gave it a name of his own.
            logger.info("image %s stays: %s", image_id, error.message)
            return False
        self._forget(image_id)
        return True

    async def _remove_probes(self, image_id: str) -> None:
        """Remove what looked into an image and does not run: it stays where an agent was killed meanwhile."""
        filters = {"label": f"{LABEL_PROBE}={image_id}", "status": ["created", "exited"]}
        for found in await self._daemon.call(self._daemon.api.containers, all=True, filters=filters):
            with contextlib.suppress(NotFound):
                await self._daemon.call(self._daemon.api.remove_container, found["Id"], v=True)

    def _forget(self, image_id: str) -> None:
        (self._directory / image_id.replace(":", "-")).unlink(missing_ok=True)


def _known(directory: Path) -> dict[str, float]:
    """Give when each image was used last."""
    if not directory.is_dir():
        return {}
    return {path.name.replace("-", ":", 1): path.stat().st_mtime for path in directory.iterdir()}
