"""The agent of a yard as the test's own process: killed at will, and at home in another network."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.yard import Yard
from tests.faults.processes import kill_process, process_of

_GIVEN_UP_SECONDS_MAX = 40


@dataclass
class OwnAgent:
    """An agent that the test starts and kills."""

    directory: Path
    environment: Mapping[str, str]
    enter: Sequence[str]
    log_path: Path
    process: subprocess.Popen[bytes] | None = field(default=None)
    kill_count: int = 0

    def start(self) -> None:
        """Start it; it attaches when it can."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.enter, sys.executable, "-m", "runyard_agent"],
                env=dict(self.environment), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def kill(self) -> None:
        """End it as a power cut would, for it alone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kill_count += 1

    def stop(self) -> None:
        """End it in order."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=20)

    @property
    def pid(self) -> int:
        """Its pid; ``ip netns exec`` becomes it."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.log_path.read_text(encoding="utf-8")


@contextmanager
def own_agent(
    yard: Yard, changes: Mapping[str, str] | None = None, enter: Sequence[str] = ()
) -> Iterator[OwnAgent]:
    """Take the agent's place in a yard: its folder, its name, its token. The yard gives its own agent up."""
    environment = _environment_of(int(process_of(yard, "agent")["pid"]))
    directory = Path(environment["RUNYARD_AGENT_DIR"])
    kill_process(yard, "agent")
    with (directory / "agent.lock").open("rb+") as lock:
        # Free from the kill until the yard has started another, which takes longer than this.
        fcntl.flock(lock, fcntl.LOCK_EX)
        gives_up_at = time.monotonic() + _GIVEN_UP_SECONDS_MAX
        while process_of(yard, "agent")["phase"] != "failed":
            assert time.monotonic() < gives_up_at
            # The state file is the supervisor's only word to others.
            time.sleep(0.05)
    agent = OwnAgent(directory, {**environment, **(changes or {})}, enter, yard.home / "own-agent.log")
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()
        # Shown when a test has failed.
        print(agent.log[-20_000:])


def _environment_of(pid: int) -> dict[str, str]:
    content = Path(f"/proc/{pid}/environ").read_bytes()
    pairs = (os.fsdecode(line).partition("=") for line in content.split(b"\0") if line)
    return {name: value for name, _, value in pairs}
