"""One of our own services as a child process, with the interface that engines have."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from runyard_embedded.readiness import Ready, until
from runyard_engines import ChildProcess, ProcessSpec
from runyard_engines.ports import require_free
from runyard_engines.process import started


class ServiceProcess:
    """``python -m MODULE`` with its settings in the environment."""

    def __init__(
        self,
        name: str,
        module: str,
        *,
        port: int | None,
        environment: Mapping[str, str],
        directory: Path,
        log_path: Path,
        when_ready: Ready,
        stop_seconds_max: float = 10.0,
    ) -> None:
        self.name = name
        self.port = port
        self.process: ChildProcess | None = None
        self._when_ready = when_ready
        self._spec = ProcessSpec(
            name=name,
            argv=(sys.executable, "-m", module),
            log_path=log_path,
            environment=environment,
            directory=directory,
            stop_seconds_max=stop_seconds_max,
        )

    async def start(self) -> None:
        """Start it.

        Raises:
            PortInUse: somebody else listens on its port.
        """
        if self.port is not None:
            require_free(self.name, [self.port])
        self.process = ChildProcess.start(self._spec)

    async def ready(self, timeout: float = 60.0) -> None:
        """Wait until it answers.

        Raises:
            EngineFailed: it ended or did not answer in time.
        """
        await until(started(self.process), self._when_ready, timeout)

    async def stop(self) -> None:
        """End it in order, with force when it does not."""
        if self.process is not None:
            await self.process.stop()
