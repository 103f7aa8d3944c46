"""What every engine can do, however it is made."""

from __future__ import annotations

from typing import Protocol

from runyard_engines.process import ChildProcess


class Engine(Protocol):
    """A server that runs as our child process."""

    @property
    def name(self) -> str:
        """Name the engine."""
        ...

    process: ChildProcess | None
    """The last started process; None before the first start."""

    async def start(self) -> None:
        """Start it; it may be started again after it ended."""
        ...

    async def ready(self, timeout: float = 60.0) -> None:
        """Wait until it answers a real request, ``timeout`` seconds at most."""
        ...

    async def stop(self) -> None:
        """End it in order, with force when it does not."""
        ...


async def start_ready(engine: Engine, timeout: float = 60.0) -> None:
    """Start an engine and wait until it answers; nothing is left of it when it does not.

    Raises:
        PortInUse: somebody else has its port.
        EngineFailed: it ended, or stayed silent for ``timeout`` seconds.
    """
    await engine.start()
    try:
        await engine.ready(timeout)
    except BaseException:
        await engine.stop()
        raise
