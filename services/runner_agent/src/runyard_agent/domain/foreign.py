"""Which processes on the GPUs are not ours, and what has changed since the last look."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuUser:
    """A process that holds memory of a GPU."""

    gpu_uuid: str
    pid: int
    start_ticks: int
    """When it started: a recycled pid is another process."""
    name: str
    memory_bytes: int

    @property
    def key(self) -> tuple[str, int, int]:
        """What names it."""
        return self.gpu_uuid, self.pid, self.start_ticks


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the GPUs gave."""

    suspects: frozenset[tuple[str, int, int]] = frozenset()
    """Not ours at this look. Told only when it still is at the next: an attempt may just have started it."""
    told: tuple[GpuUser, ...] = ()
    """Foreign processes that were told of and are still there."""


def next_look(
    before: Look, users: Iterable[GpuUser], own_pids: Collection[int]
) -> tuple[Look, list[tuple[GpuUser, bool]]]:
    """Compare a look with the one before.

    Returns:
        The new look, and what is to be told: each process with whether it is gone.
    """
    foreign: Mapping[tuple[str, int, int], GpuUser] = {
        user.key: user for user in users if user.pid not in own_pids
    }
    told = {user.key for user in before.told}
    new = [user for key, user in foreign.items() if key in before.suspects and key not in told]
    gone = [user for user in before.told if user.key not in foreign]
    still = [user for user in before.told if user.key in foreign]
    changes = [(user, False) for user in new] + [(user, True) for user in gone]
    return Look(frozenset(foreign), (*still, *new)), changes
