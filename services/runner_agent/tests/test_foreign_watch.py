"""Who is told of is told to be gone, also when the agent was started anew meanwhile."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from datetime import timedelta
from pathlib import Path

from runyard.agent.v1.agent_service_pb2 import ForeignProcess
from runyard.node.v1.types_pb2 import GpuDevice
from runyard_agent.foreign_watch import ForeignWatch
from runyard_agent.gpus import GpuProcess, GpuSample, XidSeen
from runyard_core.clock import ManualClock

GAME = GpuProcess("GPU-0", os.getpid(), 200, "game")


class OneGpu:
    """A GPU that whoever is in ``users`` uses."""

    driver_version = "1"
    cuda_version = "13.0"
    warnings: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.users: list[GpuProcess] = []

    async def devices(self) -> Sequence[GpuDevice]:
        return [GpuDevice(uuid="GPU-0")]

    async def sample(self) -> Sequence[GpuSample | None]:
        return []

    async def processes(self) -> Sequence[GpuProcess]:
        return self.users

    def take_xids(self) -> Sequence[XidSeen]:
        return ()

    def close(self) -> None:
        pass


async def none() -> Collection[int]:
    return ()


class Agents:
    """One agent after the other on a machine."""

    def __init__(self, directory: Path) -> None:
        self.gpu, self.clock, self.told = OneGpu(), ManualClock(), list[ForeignProcess]()
        self._memory = directory / "foreign.json"

    def start(self, boot_id: str = "boot-1") -> ForeignWatch:
        return ForeignWatch(self.gpu, none, self.told.append, self.clock, boot_id, self._memory)


async def test_what_left_while_no_agent_was_there_is_told_to_be_gone(tmp_path: Path) -> None:
    agents = Agents(tmp_path)
    agents.gpu.users = [GAME]
    first = agents.start()
    await first.look()
    await first.look()
    agents.gpu.users = []
    agents.clock.advance(timedelta(hours=1))
    await agents.start().look()
    assert [(report.pid, report.gone) for report in agents.told] == [(GAME.pid, False), (GAME.pid, True)]
    await agents.start().look()
    assert len(agents.told) == 2


async def test_what_is_still_there_is_told_again_in_the_same_words(tmp_path: Path) -> None:
    agents = Agents(tmp_path)
    agents.gpu.users = [GAME]
    first = agents.start()
    await first.look()
    await first.look()
    agents.clock.advance(timedelta(hours=1))
    again = agents.start()
    await again.look()
    await again.look()
    assert len(agents.told) == 1
    assert list(again._reports.values()) == agents.told


async def test_a_reboot_and_an_unreadable_file_forget(tmp_path: Path) -> None:
    agents = Agents(tmp_path)
    agents.gpu.users = [GAME]
    first = agents.start()
    await first.look()
    await first.look()
    assert agents.start("boot-2")._reports == {}
    (tmp_path / "foreign.json").write_text('{"boot_id": "boot-1"}')
    assert agents.start()._reports == {}
