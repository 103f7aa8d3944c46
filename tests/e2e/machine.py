"""Another machine, as far as one machine can be one: an agent in a folder and under a user of its own."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from runyard.node.v1.enrolment_service_pb2 import InviteNodeRequest, RevokeNodeRequest
from runyard.node.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub
from runyard.node.v1.types_pb2 import NodeState
from runyard.run.v1.scheduler_service_pb2 import GetNodeRequest
from runyard_contracts.ids import uuid7
from tests.e2e.yard import Clients, Yard

UID = 31_234 if os.geteuid() == 0 else os.geteuid()
"""The agent's user: not root."""

_TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "bin"
"""Where uv is: with it, the first environment of a machine takes a second, not ten."""


async def invite(yard: Yard, node_id: str, *, valid_seconds: int = 0) -> str:
    """Give a token for a node."""
    request = InviteNodeRequest(
        request_id=uuid7(),
        node_id=node_id,
        token_secret=secrets.token_urlsafe(32),
        valid_seconds=valid_seconds,
    )
    async with yard.channel("scheduler") as channel:
        enrolment: EnrolmentServiceStub = EnrolmentServiceStub(channel)
        return (await enrolment.InviteNode(request, timeout=20)).token


async def revoke(yard: Yard, node_id: str) -> None:
    """Take a node's credential away."""
    async with yard.channel("scheduler") as channel:
        enrolment: EnrolmentServiceStub = EnrolmentServiceStub(channel)
        await enrolment.RevokeNode(RevokeNodeRequest(request_id=uuid7(), node_id=node_id), timeout=20)


@dataclass
class Machine:
    """One agent's folder, and the agent while it runs."""

    node_id: str
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="runyard-machine-")))
    agent: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        """Give the folder to the agent's user: pytest's own folders let nobody else in."""
        os.chown(self.directory, UID, -1)

    @property
    def log(self) -> str:
        """What the agent has logged."""
        return (self.directory / "agent.log").read_text()

    @property
    def secrets(self) -> dict[str, str]:
        """What the machine keeps of its enrolment."""
        kept: dict[str, str] = json.loads((self.directory / "agent" / "node.json").read_bytes())
        return kept

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``runyard-agent`` as the agent's user."""
        return subprocess.run(
            self._argv(*words),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
            env=self._environment,
        )

    def start(self) -> None:
        """Start the agent."""
        with (self.directory / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                self._argv("run"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._environment,
            )

    async def attached(self, clients: Clients) -> None:
        """Wait until the yard knows that the agent is there."""
        async with asyncio.timeout(30):
            while True:
                if await self.state(clients) == NodeState.NODE_STATE_ATTACHED:
                    return
                await asyncio.sleep(0.1)  # nodes cannot be watched

    async def state(self, clients: Clients) -> NodeState.ValueType:
        """Give what the yard says of the node."""
        return (await clients.scheduler.GetNode(GetNodeRequest(node_id=self.node_id), timeout=20)).node.state

    def stop(self) -> None:
        """Stop the agent."""
        if self.agent is not None:
            self.agent.send_signal(signal.SIGTERM)
            self.agent.wait(20)
            self.agent = None

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _argv(self, *words: str) -> list[str]:
        agent = [sys.executable, "-m", "runyard_agent", "--directory", str(self.directory / "agent"), *words]
        return [*_as_user(), *agent]

    @property
    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNYARD_")}
        return {
            **kept,
            "PATH": f"{_TOOLS}:{kept['PATH']}",
            "HOME": str(self.directory),
            "RUNYARD_SLOT_COUNT": "4",
            "DOCKER_HOST": "tcp://none",
        }


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    user = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"]
    # Where root's own Python runs the tests, another user may not even read it; it may do nothing else more.
    read = [] if _is_open_to_all(Path(sys.executable).resolve()) else ["+dac_read_search"]
    return [*user, *(f"--{kind}-caps={caps}" for caps in read for kind in ("inh", "ambient")), "--"]


def _is_open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)
