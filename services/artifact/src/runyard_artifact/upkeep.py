"""Gives up the uploads in parts that nobody can end any more, for as long as the service lives.

A client that dies begins anew, and of two that send the same file one is enough: the store keeps the parts of
the other upload until somebody gives it up.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from runyard_artifact.domain.reference import KEY_PREFIX
from runyard_artifact.objects import ObjectStore
from runyard_artifact.s3_store import PRESIGNED_FOR
from runyard_core.clock import Clock
from runyard_core.errors import Unavailable

UPLOAD_LIFE = 2 * PRESIGNED_FOR
"""After half of it no part can be sent any more; the rest is for those on their way, and for the commit."""

LOOK_EVERY = timedelta(hours=1)

log = structlog.get_logger("runyard.artifact.upkeep")


class UploadUpkeep:
    """Looks after the uploads below our own keys. Several instances at once do no harm."""

    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        """Look into this store."""
        self._objects = objects
        self._clock = clock

    async def run(self) -> None:
        """Look now and every ``LOOK_EVERY``, for ever; a store that is away is asked again then."""
        while True:
            try:
                await self.look()
            except Unavailable as error:
                log.warning("uploads that were left are looked for again in a while", reason=str(error))
            await asyncio.sleep(LOOK_EVERY.total_seconds())

    async def look(self) -> None:
        """Give up what was begun longer than ``UPLOAD_LIFE`` ago.

        Raises:
            Unavailable: the store does not answer (STORE_UNAVAILABLE).
        """
        count = await self._objects.abort_multiparts(KEY_PREFIX, self._clock.now() - UPLOAD_LIFE)
        if count:
            log.info("uploads that were left are given up", count=count)
