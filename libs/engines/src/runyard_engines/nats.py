"""NATS with JetStream: the bus. Its configuration gives each user the subjects it needs and no other."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error as NatsError

from runyard_contracts import subjects
from runyard_core.bus_connection import hang_up
from runyard_engines.ports import require_free
from runyard_engines.process import POLL_SECONDS, ChildProcess, ProcessSpec, started
from runyard_engines.programs import program_path

RELAY = "relay"
"""Alone publishes events and the head, and manages the mirror's streams."""

METRICS = "metrics"
"""Manages and consumes the telemetry stream, and publishes committed marks."""

SERVICES = ("scheduler", "artifact", "cost", "lineage")
"""Hear the doorbell and nothing else; ``metrics`` does too."""

SERVICE_INBOX = "_INBOX.>"
PAYLOAD_BYTES_MAX = 1_048_576


@dataclass(frozen=True, slots=True)
class NatsUser:
    """A user with what it may publish and hear."""

    name: str
    password: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    publish_denied: tuple[str, ...] = ()
    is_agent: bool = False


@dataclass(frozen=True, slots=True)
class NatsSpec:
    """Where a server keeps its data, how it is reached and by whom."""

    data_dir: Path
    port: int
    users: tuple[NatsUser, ...]
    log_path: Path

    @property
    def url(self) -> str:
        """Give the address."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def config_path(self) -> Path:
        """Name the configuration file; it holds passwords and is readable by its owner only."""
        return self.data_dir / "nats.json"


def relay_user(password: str) -> NatsUser:
    """Give the user of the relay. It cannot touch the telemetry stream."""
    telemetry = subjects.TELEMETRY_STREAM
    return NatsUser(
        RELAY,
        password,
        publish=(subjects.EVENT_WILDCARD, subjects.HEAD, "$JS.API.>", "$JS.ACK.>"),
        subscribe=(SERVICE_INBOX, subjects.EVENT_WILDCARD, subjects.HEAD),
        publish_denied=(
            f"$JS.API.STREAM.*.{telemetry}",
            f"$JS.API.STREAM.*.*.{telemetry}",
            f"$JS.API.CONSUMER.*.{telemetry}.>",
            f"$JS.API.CONSUMER.*.*.{telemetry}.>",
        ),
    )


def metrics_user(password: str) -> NatsUser:
    """Give the user of the metrics service. It manages no other stream than the telemetry's."""
    telemetry = subjects.TELEMETRY_STREAM
    return NatsUser(
        METRICS,
        password,
        publish=(
            f"{_parent(subjects.committed_subject('x'))}.*",
            "$JS.API.INFO",
            "$JS.API.STREAM.NAMES",
            f"$JS.API.STREAM.*.{telemetry}",
            f"$JS.API.STREAM.*.*.{telemetry}",
            f"$JS.API.DIRECT.GET.{telemetry}",
            f"$JS.API.DIRECT.GET.{telemetry}.>",
            f"$JS.API.CONSUMER.*.{telemetry}",
            f"$JS.API.CONSUMER.*.{telemetry}.>",
            f"$JS.API.CONSUMER.*.*.{telemetry}.>",
            f"$JS.ACK.{telemetry}.>",
            f"$JS.ACK.*.*.{telemetry}.>",
            f"$JS.FC.{telemetry}.>",
        ),
        subscribe=(SERVICE_INBOX, subjects.HEAD, subjects.TELEMETRY_WILDCARD),
    )


def service_user(name: str, password: str) -> NatsUser:
    """Give the user of a service that only listens to the doorbell."""
    return NatsUser(name, password, publish=(), subscribe=(SERVICE_INBOX, subjects.HEAD))


def agent_user(node_id: str, password: str) -> NatsUser:
    """Give the user of a node's agent: its own telemetry out, its own marks and inbox in.

    The password may be a bcrypt hash: then only the node knows it.
    """
    return NatsUser(
        agent_user_name(node_id),
        password,
        publish=(f"{_parent(subjects.telemetry_subject(node_id, 'x'))}.>",),
        subscribe=(f"{subjects.inbox_prefix(node_id)}.>", subjects.committed_subject(node_id)),
        is_agent=True,
    )


def agent_user_name(node_id: str) -> str:
    """Name the user of a node's agent."""
    return subjects.bus_user(node_id)


def configuration(spec: NatsSpec) -> str:
    """Write the server's configuration (JSON, which it reads as well as its own form).

    Agents live in an account of their own, which reaches the services' account only through the telemetry
    subjects. In one account an agent could name an event's subject as the place for JetStream's
    acknowledgement, and the server itself would write into the mirror.
    """
    telemetry = subjects.TELEMETRY_WILDCARD
    committed = f"{_parent(subjects.committed_subject('x'))}.*"
    document = {
        "server_name": "runyard",
        "listen": f"127.0.0.1:{spec.port}",
        "max_payload": PAYLOAD_BYTES_MAX,
        "jetstream": {"store_dir": str(spec.data_dir / "jetstream"), "sync_interval": "always"},
        "accounts": {
            "YARD": {
                "jetstream": "enabled",
                "users": [_user(user) for user in spec.users if not user.is_agent],
                "exports": [{"service": telemetry}, {"stream": committed}],
            },
            "AGENTS": {
                "users": [_user(user) for user in spec.users if user.is_agent],
                "imports": [
                    {"service": {"account": "YARD", "subject": telemetry}},
                    {"stream": {"account": "YARD", "subject": committed}},
                ],
            },
        },
    }
    return json.dumps(document, indent=2)


class NatsServer:
    """One NATS server as a child process."""

    name = "nats"

    def __init__(self, spec: NatsSpec) -> None:
        self.spec = spec
        self.process: ChildProcess | None = None

    async def start(self) -> None:
        """Write the configuration and start the server.

        Raises:
            PortInUse: somebody else listens on the port.
        """
        require_free(self.name, [self.spec.port])
        self._write_configuration()
        self.process = ChildProcess.start(
            ProcessSpec(
                name=self.name,
                argv=(str(program_path("nats-server")), "--config", str(self.spec.config_path)),
                log_path=self.spec.log_path,
            )
        )

    def set_users(self, users: Iterable[NatsUser]) -> None:
        """Give the running server another set of users; connections of those who stay are kept."""
        self.spec = NatsSpec(self.spec.data_dir, self.spec.port, tuple(users), self.spec.log_path)
        self._write_configuration()
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    async def ready(self, timeout: float = 60.0) -> None:
        """Wait until JetStream answers the relay's user.

        Raises:
            EngineFailed: the server ended or did not answer in time.
        """
        process = started(self.process)
        user = next(user for user in self.spec.users if user.name == RELAY)
        deadline = time.monotonic() + timeout
        while True:
            if await process.wait(POLL_SECONDS) is not None:
                raise process.failed("did not start")
            try:
                await ask_jetstream(self.spec.url, user.name, user.password)
            except (OSError, TimeoutError, NatsError):
                if time.monotonic() > deadline:
                    raise process.failed(f"did not answer within {timeout:.0f} s") from None
                continue
            return

    async def stop(self) -> None:
        """End the server in order."""
        if self.process is not None:
            await self.process.stop()

    def _write_configuration(self) -> None:
        self.spec.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self.spec.config_path.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_text(configuration(self.spec), encoding="utf-8")
        new.rename(self.spec.config_path)


async def ask_jetstream(url: str, user: str, password: str) -> None:
    """Ask JetStream something as a user that may.

    Raises:
        OSError, TimeoutError, nats.errors.Error: there is no answer, or it is no.
    """

    async def silent(_: Exception) -> None:
        """A refused connection is tried again by the caller."""

    connection = Client()
    try:
        await connection.connect(
            url,
            user=user,
            password=password,
            connect_timeout=2,
            allow_reconnect=False,
            reconnect_time_wait=0,  # also waited before a first try is given up
            error_cb=silent,
        )
        await connection.jetstream(timeout=2).account_info()
    finally:
        await hang_up(connection)  # also after a failed connect, which leaves its socket open


def _user(user: NatsUser) -> dict[str, object]:
    # An empty list of subjects would allow all of them.
    allowed = {"allow": list(user.publish)} if user.publish else {"deny": [">"]}
    if user.publish_denied:
        allowed["deny"] = list(user.publish_denied)
    return {
        "user": user.name,
        "password": user.password,
        "permissions": {"publish": allowed, "subscribe": {"allow": list(user.subscribe)}},
    }


def _parent(subject: str) -> str:
    """Take the last token off a subject."""
    return subject.rpartition(".")[0]
