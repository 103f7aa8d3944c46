"""How user code is started, watched and ended: what the process and the container runtime have in common.

Both runtimes keep the same folder for an attempt, so that reading logs and finding an attempt again after
a restart of the agent are the same for both::

    <directory>/repository  inputs  outputs  config     what user code sees
    <directory>/state/command                           the script that is run (see ``domain.command_script``)
    <directory>/state/stdout, stderr                    what it printed, byte for byte, only appended to
    <directory>/state/exit.json                         how it ended, written once and atomically
    <directory>/state/lease                             until when it may run (see ``lease_text``)

User code never waits for the agent: it writes to files and has a parent (the shim, the container daemon)
that outlives the agent. What must hold while the agent is dead is held by that parent: the exit status is
kept, the limits of the plan are enforced, and, where the plan asks, an expired lease ends the attempt.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from runyard_agent.domain.file_systems import FileSystem


class EndedBy(enum.Enum):
    """Who ended the program. A stop by the agent counts as ITSELF: the agent knows what it did."""

    ITSELF = "itself"
    TIME_LIMIT = "time_limit"
    NO_OUTPUT_TIMEOUT = "no_output_timeout"
    MEMORY_LIMIT = "memory_limit"
    LEASE_EXPIRY = "lease_expiry"
    DISK_LIMIT = "disk_limit"
    PROCESS_LIMIT = "process_limit"


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything a runtime needs to start one attempt; made again, equal, after a restart of the agent."""

    run_id: str
    attempt: int
    epoch: int
    directory: Path
    """The attempt's folder; the folders in it exist before ``launch``."""
    command_lines: tuple[str, ...]
    """As asked for; ``script`` holds them as one executable file, written before ``launch``."""
    environment: Mapping[str, str] = field(repr=False)
    """Every variable that user code finds: nothing is inherited from the agent. May hold secrets."""
    gpu_uuids: tuple[str, ...] = ()
    image: str = ""
    """Container only: what to create the container from (an image id, or a reference)."""
    venv: Path | None = None
    """Process only: virtual environment whose ``bin`` is first on PATH (already so in ``environment``)."""
    has_private_view: bool = False
    """Process only: its folders are at ``/valohai`` too, as in a container (``private_view``)."""
    mounts: tuple[tuple[str, str], ...] = ()
    """Folders of the machine that the program sees read-only: real path, and where."""
    file_systems: tuple[FileSystem, ...] = ()
    """What is mounted for the program alone, read-only."""
    memory_bytes_max: int = 0
    """0 means no limit; also for the limits below."""
    cpu_millicores_max: int = 0
    processes_max: int = 0
    """Processes and threads together."""
    disk_bytes_max: int = 0
    """What its folders may take on the disk, without what the agent put into inputs and repository."""
    time_limit_seconds: int = 0
    no_output_timeout_seconds: int = 0
    stop_grace_seconds: int = 10
    """Between the stop signal and the kill, when a limit or an expired lease ends the program."""
    ends_on_lease_expiry: bool = False

    @property
    def name(self) -> str:
        """Name of the attempt, the same on every try: container name, log field."""
        return f"runyard-{self.run_id}-{self.attempt}"

    @property
    def repository(self) -> Path:
        """The code snapshot and working directory."""
        return self.directory / "repository"

    @property
    def inputs(self) -> Path:
        """One folder for each input."""
        return self.directory / "inputs"

    @property
    def outputs(self) -> Path:
        """What is left here is stored at the end."""
        return self.directory / "outputs"

    @property
    def config(self) -> Path:
        """The JSON and YAML files that tell user code about its run."""
        return self.directory / "config"

    @property
    def state(self) -> Path:
        """Files of the agent and the shim; user code has no business here."""
        return self.directory / "state"

    @property
    def written_folders(self) -> tuple[Path, ...]:
        """Where a program writes; inputs and repository hold what the agent put there, too."""
        return self.outputs, self.state, self.directory / "home", self.directory / "venv"

    @property
    def script(self) -> Path:
        """All command lines: run by bash, else sh, or executed itself when it starts with "#!"."""
        return self.state / "command"

    @property
    def stdout(self) -> Path:
        """What the program wrote to its standard output."""
        return self.state / "stdout"

    @property
    def stderr(self) -> Path:
        """What the program wrote to its standard error."""
        return self.state / "stderr"

    @property
    def exit_file(self) -> Path:
        """How it ended, as ``Exit.to_json``."""
        return self.state / "exit.json"

    @property
    def lease_file(self) -> Path:
        """Until when it may run, as ``lease_text``."""
        return self.state / "lease"


@dataclass(frozen=True, slots=True)
class Handle:
    """Which program an attempt is, so that a recycled pid is never taken for it."""

    kind: str
    """"process" or "container"."""
    id: str
    """Pid of the shim, or id of the container."""
    start_ticks: int = 0
    """Process only: field 22 of /proc/<pid>/stat of the shim."""

    def to_json(self) -> dict[str, str | int]:
        """Give what ``from_json`` reads."""
        return {"kind": self.kind, "id": self.id, "start_ticks": self.start_ticks}

    @classmethod
    def from_json(cls, value: Mapping[str, str | int]) -> Handle:
        """Read what ``to_json`` gave."""
        return cls(kind=str(value["kind"]), id=str(value["id"]), start_ticks=int(value["start_ticks"]))


@dataclass(frozen=True, slots=True)
class Exit:
    """How a program ended, as its parent saw it."""

    exit_code: int | None
    """None when a signal ended it, or when nobody saw the end. A shell's 128 + n stays as it is."""
    signal: int
    """0 when no signal ended it."""
    oom_killed: bool
    """The kernel (or the memory limit of the plan) killed the program itself for its memory."""
    ended_at: datetime
    """With its zone (UTC)."""
    ended_by: EndedBy = EndedBy.ITSELF
    detail: str = ""
    """One line for people, when there is more to say than the code."""
    is_known: bool = True
    """False when the parent died too: the program is gone and nobody saw how."""

    def to_json(self) -> dict[str, object]:
        """Give what ``from_json`` reads."""
        return {
            "exit_code": self.exit_code,
            "signal": self.signal,
            "oom_killed": self.oom_killed,
            "ended_at_unix_milliseconds": round(self.ended_at.timestamp() * 1000),
            "ended_by": self.ended_by.value,
            "detail": self.detail,
            "is_known": self.is_known,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Exit:
        """Read what ``to_json`` gave."""
        exit_code = value["exit_code"]
        return cls(
            exit_code=None if exit_code is None else int(exit_code),
            signal=int(value["signal"]),
            oom_killed=bool(value["oom_killed"]),
            ended_at=datetime.fromtimestamp(value["ended_at_unix_milliseconds"] / 1000, UTC),
            ended_by=EndedBy(value["ended_by"]),
            detail=str(value["detail"]),
            is_known=bool(value["is_known"]),
        )


class Runtime(Protocol):
    """One way to run attempts. Errors of the machine are ``runyard_core.errors`` with these codes.

    IMAGE_UNAVAILABLE (the image cannot be had), ENVIRONMENT_UNAVAILABLE (the program cannot be started
    here), UNAVAILABLE (the daemon does not answer: try again).
    """

    async def launch(self, plan: LaunchPlan) -> Handle:
        """Start the attempt; when it was already started, running or ended, give its handle.

        Raises:
            RunyardError: with one of the codes above. Nothing is left behind.
        """
        ...

    async def find(self, plan: LaunchPlan) -> Handle | None:
        """Find the attempt again after a restart of the agent: running, or ended with its exit kept."""
        ...

    async def wait(self, handle: Handle, plan: LaunchPlan) -> Exit:
        """Wait for the end. May be cancelled and called again, also long after the end.

        The last byte of output is in the files when it returns.
        """
        ...

    async def signal(self, handle: Handle, signal_number: int) -> None:
        """Send a signal to every process of the attempt. Nothing happens when it has ended."""
        ...

    async def kill(self, handle: Handle) -> None:
        """Kill every process of the attempt. Nothing happens when it has ended."""
        ...

    async def remove(self, handle: Handle, plan: LaunchPlan) -> None:
        """Let go of what the runtime keeps for the attempt, not of its folder. Ends it first when it runs."""
        ...

    async def pids(self, handle: Handle) -> Sequence[int]:
        """Give the host's pids of the attempt's processes, for sampling; empty when it has ended."""
        ...


def lease_text(expires_at_boottime_seconds: float) -> str:
    """Write the content of the lease file: seconds of CLOCK_BOOTTIME, as decimal text with a newline.

    That clock counts suspended time, too, and /proc/uptime shows it.
    """
    return f"{expires_at_boottime_seconds:.3f}\n"
