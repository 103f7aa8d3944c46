"""What an enrolled machine keeps in files that only it can read: its name, its yard and its secrets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runyard_agent.durable_files import write_atomically
from runyard_agent.gate import Gate
from runyard_core.errors import Corrupt

NODE_FILE = "node.json"
CERTIFICATE_FILE = "gate.crt"


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A machine that is a node of a yard."""

    node_id: str
    address: str
    """host:port of the yard's gate."""
    bus_user: str
    credential: str = field(repr=False)
    bus_password: str = field(repr=False)

    def save(self, directory: Path, certificate_pem: str) -> None:
        """Write it down (0600); the certificate first, so that a node always has its yard's."""
        write_atomically(directory / CERTIFICATE_FILE, certificate_pem.encode())
        write_atomically(directory / NODE_FILE, json.dumps(asdict(self), indent=2).encode())

    @classmethod
    def load(cls, directory: Path) -> Enrolled | None:
        """Read it; None when this machine has not enrolled.

        Raises:
            Corrupt: the file cannot be used.
        """
        path = directory / NODE_FILE
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise Corrupt(f"{path} cannot be used ({error}): enroll again", code="BAD_NODE_FILE") from error

    def gate(self, directory: Path) -> Gate:
        """Give the way to the yard.

        Raises:
            Corrupt: its certificate cannot be read.
        """
        path = directory / CERTIFICATE_FILE
        try:
            return Gate(self.address, path.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise Corrupt(f"{path} cannot be used ({error}): enroll again", code="BAD_NODE_FILE") from error

    def environment(self, directory: Path) -> dict[str, str]:
        """Give the settings of the agent that follow from it."""
        return {
            "RUNYARD_NODE_ID": self.node_id,
            "RUNYARD_AGENT_TOKEN": self.credential,
            "RUNYARD_SCHEDULER_ADDRESS": self.address,
            "RUNYARD_ARTIFACT_ADDRESS": self.address,
            "RUNYARD_NATS_URL": f"tls://{self.address}",
            "RUNYARD_NATS_USER": self.bus_user,
            "RUNYARD_NATS_PASSWORD": self.bus_password,
            "RUNYARD_GATE_CERTIFICATE_FILE": str(directory / CERTIFICATE_FILE),
        }


def agent_directory(environment: Mapping[str, str]) -> Path:
    """Give the agent's folder: RUNYARD_AGENT_DIR, else where services of root or of a person keep theirs."""
    named = environment.get("RUNYARD_AGENT_DIR")
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/runyard-agent")
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "runyard-agent"


def completed(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Fill an environment up with what the enrolment of this machine says; what is set stays.

    Raises:
        Corrupt: this machine's enrolment cannot be read.
    """
    if environment.get("RUNYARD_AGENT_TOKEN"):
        return environment
    directory = agent_directory(environment)
    enrolled = Enrolled.load(directory)
    if enrolled is None:
        return environment
    return {**enrolled.environment(directory), "RUNYARD_AGENT_DIR": str(directory), **environment}
