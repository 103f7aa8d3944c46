"""What runs now, in a file that the supervisor writes and everybody else reads."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from runyard_embedded.home import Home, write_private
from runyard_engines import ProcessIdentity


class Phase(enum.StrEnum):
    """How far a process, or the yard as a whole, is."""

    STARTING = "starting"
    UP = "up"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One process of the yard."""

    name: str
    version: str
    port: int | None
    phase: Phase = Phase.STARTING
    pid: int | None = None
    started_ticks: int | None = None
    since: str = ""
    """When the phase began (RFC 3339)."""
    restarts: int = 0
    detail: str = ""
    """Why it failed or restarts."""

    @property
    def identity(self) -> ProcessIdentity | None:
        """Give the process that this was written for."""
        if self.pid is None or self.started_ticks is None:
            return None
        return ProcessIdentity(self.pid, self.started_ticks)


@dataclass(frozen=True, slots=True)
class YardState:
    """The whole yard."""

    supervisor: ProcessState
    processes: dict[str, ProcessState] = field(default_factory=dict)
    error: str = ""
    """Why the start failed."""

    def with_process(self, state: ProcessState) -> YardState:
        """Give the state with one process changed."""
        return replace(self, processes={**self.processes, state.name: state})

    @property
    def is_alive(self) -> bool:
        """Tell whether the supervisor that wrote this still runs."""
        identity = self.supervisor.identity
        return identity is not None and identity.is_alive()


def now_text() -> str:
    """Give the time of day for ``since``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_state(home: Home, state: YardState) -> None:
    """Replace the file in one step."""
    write_private(home.state_file, asdict(state))


def read_state(home: Home) -> YardState | None:
    """Read what the last supervisor wrote; None when there was none."""
    try:
        content = json.loads(home.state_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return state_from(content)


def state_from(content: dict[str, Any]) -> YardState:
    """Make a state of what ``asdict`` made of one."""
    return YardState(
        supervisor=_process(content["supervisor"]),
        processes={name: _process(process) for name, process in content["processes"].items()},
        error=content["error"],
    )


def _process(content: dict[str, Any]) -> ProcessState:
    known = ProcessState(**content)
    return replace(known, phase=Phase(known.phase))
