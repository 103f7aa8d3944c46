"""What runs here below this agent's folder for no attempt that it holds: ended in two phases.

An attempt's folder may be lost while its program goes on: cleaned up, put back from a backup, on a disk that
was replaced. The scheduler gives such an attempt up and may start the next one, so nobody may run on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runyard_agent import control_group, process_table
from runyard_agent.executors import DockerOnDemand
from runyard_agent.limits import MachineLimits
from runyard_core.errors import RunyardError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Between two looks. What was seen twice is told to end, and killed with the third look."""
_SHIM = "/shim.py"
_REMOVE_TRIES, _REMOVE_AGAIN_SECONDS = 40, 0.05


class Orphan(Protocol):
    """A program of an attempt that may be anybody's."""

    @property
    def attempt(self) -> str:
        """The name of its attempt's folder."""

    @property
    def words(self) -> str:
        """What it is, for people."""

    async def tell(self) -> None:
        """Ask it to end."""

    async def kill(self) -> None:
        """End it, and take away what is left of it."""


class Orphans:
    """Looks for programs that no attempt of this node is about."""

    def __init__(
        self,
        attempts: Path,
        docker: DockerOnDemand,
        limits: MachineLimits,
        held: Callable[[], Container[str]],
    ) -> None:
        """Look below ``attempts`` alone: others on this machine may have a node of the same name.

        Args:
            attempts: the folder with a folder for each attempt.
            docker: asked for containers, where there is a daemon.
            limits: knows the control groups of attempts.
            held: gives the names of the attempts that we hold.
        """
        self._attempts = attempts
        self._docker = docker
        self._limits = limits
        self._held = held
        self._seen: dict[str, int] = {}

    async def run(self, ready: asyncio.Event) -> None:
        """Look again and again, once it is known what is held."""
        await ready.wait()
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once: note what is new, tell what was seen before, kill what was told."""
        found: list[Orphan] = [*await self._containers(), *await asyncio.to_thread(self._shims)]
        # After the look, not before: what was taken on meanwhile is held.
        held = self._held()
        orphans = [orphan for orphan in found if orphan.attempt not in held]
        self._seen = {orphan.words: self._seen.get(orphan.words, 0) + 1 for orphan in orphans}
        for orphan in orphans:
            await self._end(orphan, self._seen[orphan.words])

    async def _end(self, orphan: Orphan, seen_count: int) -> None:
        try:
            if seen_count == 1:
                logger.warning("%s runs for an attempt that this agent does not hold", orphan.words)
            elif seen_count == 2:
                logger.warning("%s is told to end: nobody holds its attempt", orphan.words)
                await orphan.tell()
            else:
                await orphan.kill()
                logger.warning("%s was ended: nobody holds its attempt", orphan.words)
        except RunyardError as error:
            logger.warning("%s cannot be ended now: %s", orphan.words, error)

    async def _containers(self) -> Sequence[Orphan]:
        docker = await self._docker.open()
        if isinstance(docker, str):
            return ()
        from runyard_agent.orphan_containers import containers_below

        try:
            return await containers_below(docker.daemon, self._attempts)
        except RunyardError as error:
            logger.warning("containers cannot be listed now: %s", error)
            return ()

    def _shims(self) -> list[Orphan]:
        """Find shims by what they were started with: it names their folder, also when that is gone."""
        found: dict[str, list[int]] = {}
        for pid in process_table.all_pids():
            words = process_table.command_line(pid)
            if any(word.endswith(_SHIM) for word in words):
                state = Path(words[-1])
                if state.name == "state" and state.parent.parent == self._attempts:
                    found.setdefault(state.parent.name, []).append(pid)
        return [_Shim(name, tuple(pids), self._limits) for name, pids in found.items()]


@dataclass(frozen=True, slots=True)
class _Shim:
    """The parent of a program, and the program."""

    attempt: str
    pids: tuple[int, ...]
    limits: MachineLimits

    @property
    def words(self) -> str:
        return f"process {self.pids[0]} of attempt {self.attempt}"

    async def tell(self) -> None:
        process_table.kill_all(self._program(), signal.SIGTERM)

    async def kill(self) -> None:
        groups = self.limits.group_named(self.attempt)
        control_group.kill(groups)
        await asyncio.to_thread(process_table.end_all, self._program)
        # Last: without its folder it would try to write down the end for ever.
        process_table.kill_all([*self.pids], signal.SIGKILL)
        for _ in range(_REMOVE_TRIES):
            # What was killed is in its group until the kernel is through with it.
            if control_group.remove(groups):
                break
            await asyncio.sleep(_REMOVE_AGAIN_SECONDS)

    def _program(self) -> list[int]:
        below = [pid for shim in self.pids for pid in process_table.descendants(shim)]
        in_group = control_group.members(self.limits.group_named(self.attempt))
        return sorted({*below, *in_group} - {*self.pids, os.getpid()})
