"""Looks every ten seconds at who holds GPU memory, and tells of processes that are not ours."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import asdict
from pathlib import Path

from runyard.agent.v1.agent_service_pb2 import ForeignProcess
from runyard_agent.domain.foreign import GpuUser, Look, next_look
from runyard_agent.durable_files import write_atomically
from runyard_agent.gpus import Gpus
from runyard_agent.process_table import start_ticks
from runyard_contracts.ids import deterministic_id
from runyard_core.clock import Clock
from runyard_core.errors import RunyardError

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0


class ForeignWatch:
    """Watches the GPUs of a node for processes of others.

    Nothing is placed on a GPU while one of them is there, so whoever is told of must be told to be gone, also
    by the next agent: a file remembers the reports.
    """

    def __init__(
        self,
        gpus: Gpus,
        own_pids: Callable[[], Awaitable[Collection[int]]],
        tell: Callable[[ForeignProcess], None],
        clock: Clock,
        boot_id: str,
        memory: Path,
    ) -> None:
        """Prepare; no GPU is read before ``run``. ``memory`` is the file that remembers."""
        self._gpus = gpus
        self._own_pids = own_pids
        self._tell = tell
        self._clock = clock
        self._boot_id = boot_id
        self._memory = memory
        self._reports = _told_before(memory, boot_id)
        self._look = Look(told=tuple(self._reports))

    def told_pids(self) -> Collection[int]:
        """Give the foreign processes that were told of and are still there."""
        return {user.pid for user in self._look.told}

    async def run(self) -> None:
        """Look until cancelled; while a node has no GPUs nothing is looked at."""
        # Byte for byte as before: who knows them does nothing.
        for report in self._reports.values():
            self._tell(report)
        while True:
            try:
                if await self._gpus.devices():
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
        reports = [self._report(user, is_gone=is_gone) for user, is_gone in changes]
        known = self._reports | {user: report for (user, _), report in zip(changes, reports, strict=True)}
        self._reports = {user: known[user] for user in self._look.told}
        if reports:
            self._remember()
        for report in reports:
            self._tell(report)

    def _remember(self) -> None:
        try:
            write_atomically(self._memory, _remembered(self._boot_id, self._reports))
        except OSError:
            # After a restart they are told again, under the same ids.
            logger.exception("foreign processes cannot be written down")

    def _report(self, user: GpuUser, *, is_gone: bool) -> ForeignProcess:
        report = ForeignProcess(
            report_id=deterministic_id("foreign", self._boot_id, *user.key, is_gone),
            gpu_uuid=user.gpu_uuid,
            pid=user.pid,
            process_name=user.name,
            memory_bytes=user.memory_bytes,
            gone=is_gone,
        )
        report.occurred_at.FromDatetime(self._clock.now())
        return report


def _remembered(boot_id: str, reports: dict[GpuUser, ForeignProcess]) -> bytes:
    told = [
        {"user": asdict(user), "report": report.SerializeToString().hex()} for user, report in reports.items()
    ]
    return json.dumps({"boot_id": boot_id, "told": told}).encode()


def _told_before(memory: Path, boot_id: str) -> dict[GpuUser, ForeignProcess]:
    """Give who was told of and is not known to be gone; a reboot ends them all, as the scheduler knows."""
    try:
        content = json.loads(memory.read_bytes())
        if content["boot_id"] != boot_id:
            return {}
        return {
            GpuUser(**each["user"]): ForeignProcess.FromString(bytes.fromhex(each["report"]))
            for each in content["told"]
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read, so nothing is known of an earlier agent: %s", memory, error)
        return {}
