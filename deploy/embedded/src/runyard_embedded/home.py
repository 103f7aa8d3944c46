"""The folder that holds everything of one yard, and the lock that makes its supervisor the only one."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runyard_client import runyard_home


@dataclass(frozen=True, slots=True)
class Home:
    """The places below ``$RUNYARD_HOME``."""

    folder: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Home:
        """Find the folder, as every client does."""
        return cls(runyard_home(environment).absolute())

    @property
    def logs(self) -> Path:
        """One log file for each process."""
        return self.folder / "logs"

    @property
    def data(self) -> Path:
        """The engines' data, one folder each."""
        return self.folder / "data"

    @property
    def agent(self) -> Path:
        """The agent's spool, caches and attempts."""
        return self.folder / "agent"

    @property
    def state_file(self) -> Path:
        """What runs now: written by the supervisor, read by everybody else."""
        return self.folder / "yard.json"

    @property
    def ports_file(self) -> Path:
        """The ports chosen at the first start."""
        return self.folder / "ports.json"

    @property
    def credentials_file(self) -> Path:
        """Tokens and passwords (0600)."""
        return self.folder / "credentials.json"

    @property
    def tokens_file(self) -> Path:
        """Hashes of the tokens, for the services (0600)."""
        return self.folder / "tokens.json"

    @property
    def yard_key_file(self) -> Path:
        """The key under which names of persons and secrets are kept (0600). In no backup of the data."""
        return self.folder / "yard.key"

    @property
    def segment_key_file(self) -> Path:
        """The key that signs sealed segments of the log (0600); the public half is beside it."""
        return self.folder / "segment.key"

    @property
    def gate_authority_file(self) -> Path:
        """The certificate by which others know the yard, as long as it lives."""
        return self.folder / "gate-authority.crt"

    @property
    def gate_authority_key_file(self) -> Path:
        """The key of that certificate (0600). Without it the gate's own cannot be renewed."""
        return self.folder / "gate-authority.key"

    @property
    def gate_certificate_file(self) -> Path:
        """What the gate shows, with its key (0600): signed by the authority, and renewed before its end."""
        return self.folder / "gate.pem"

    @property
    def bus_users_file(self) -> Path:
        """Enrolled nodes as the bus knows them, when somebody else runs it (0600)."""
        return self.folder / "bus-users.json"

    @property
    def lock_file(self) -> Path:
        """Held by the supervisor for life."""
        return self.folder / "yard.lock"

    def make(self) -> None:
        """Create the folder, readable by its owner only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for below in (self.logs, self.data, self.agent):
            below.mkdir(exist_ok=True, mode=0o700)

    def lock(self) -> YardLock | None:
        """Take the lock, or give None when another supervisor has it. It lasts until it is closed."""
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return YardLock(descriptor)


@dataclass(frozen=True, slots=True)
class YardLock:
    """The right to be the supervisor of a home; the kernel takes it back when the process ends."""

    descriptor: int

    def release(self) -> None:
        """Give the right up."""
        os.close(self.descriptor)


def node_id_of_this_machine() -> str:
    """Give the name under which this machine's agent is known: its host name, in lower case."""
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")
    return name[:40] or "local"


def write_private(path: Path, value: object) -> None:
    """Write a JSON file (0600) in one step."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    new.rename(path)
