"""A command beside a running program, as hands-on sessions use it: in a process's view or in a container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

CHUNK_BYTES = 32_768
"""Most bytes that are read at once."""


@dataclass(frozen=True, slots=True)
class CommandPlan:
    """What is asked for."""

    command: tuple[str, ...]
    """Empty means a shell."""
    terminal_type: str = ""
    """What the user's terminal understands; empty means that there is none."""
    columns: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a command wrote."""

    data: bytes
    is_error: bool = False
    """Whether it was written to standard error; a terminal has one stream only."""


@dataclass(frozen=True, slots=True)
class CommandExit:
    """How a command ended."""

    exit_code: int
    """128 + signal when a signal ended it."""
    signal: int = 0


class SideCommand(Protocol):
    """A command that runs."""

    async def read(self) -> Output | None:
        """Give what it wrote next; None when it and all that it left behind will write no more."""
        ...

    async def write(self, data: bytes) -> None:
        """Give it input; waits while it does not read, and drops the rest when it has ended."""
        ...

    async def end_input(self) -> None:
        """Close its input; of a terminal nothing is closed."""
        ...

    async def resize(self, columns: int, rows: int) -> None:
        """Tell it of another size of its terminal."""
        ...

    async def wait(self) -> CommandExit | None:
        """Wait for its end, once ``read`` has given None; None when it ended with its program."""
        ...

    async def close(self) -> None:
        """End it, if it still runs, and let go of everything."""
        ...
