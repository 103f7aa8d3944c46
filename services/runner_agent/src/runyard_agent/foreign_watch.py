"""Looks every ten seconds at who holds GPU memory, and tells of processes that are not ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from runyard.agent.v1.agent_service_pb2 import ForeignProcess
from runyard_agent.domain.foreign import GpuUser, Look, next_look
from runyard_agent.gpus import Gpus
from runyard_agent.process_table import start_ticks
from runyard_contracts.ids import deterministic_id
from runyard_core.clock import Clock
from runyard_core.errors import RunyardError

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0


class ForeignWatch:
    """Watches the GPUs of a node for processes of others."""

    def __init__(
        self,
        gpus: Gpus,
        own_pids: Callable[[], Awaitable[Collection[int]]],
        tell: Callable[[ForeignProcess], None],
        clock: Clock,
        boot_id: str,
    ) -> None:
        """Prepare; nothing is read before ``run``."""
        self._gpus = gpus
        self._own_pids = own_pids
        self._tell = tell
        self._clock = clock
        self._boot_id = boot_id
        self._look = Look()

    async def run(self) -> None:
        """Look until cancelled; a node without GPUs is not looked at."""
        if not await self._gpus.devices():
            return
        while True:
            try:
                await self.look()
            except RunyardError as error:
                logger.warning("processes on the GPUs cannot be listed: %s", error)
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Look once, and tell what has changed."""
        users = [
            GpuUser(found.gpu_uuid, found.pid, start_ticks(found.pid), found.name, found.memory_bytes)
            for found in await self._gpus.processes()
        ]
        self._look, changes = next_look(self._look, users, await self._own_pids())
        for user, is_gone in changes:
            process = ForeignProcess(
                report_id=deterministic_id("foreign", self._boot_id, *user.key, is_gone),
                gpu_uuid=user.gpu_uuid,
                pid=user.pid,
                process_name=user.name,
                memory_bytes=user.memory_bytes,
                gone=is_gone,
            )
            process.occurred_at.FromDatetime(self._clock.now())
            self._tell(process)
